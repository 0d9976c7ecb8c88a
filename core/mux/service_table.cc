#include "core/mux/service_table.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "core/base/check.h"

namespace tcpmux {
namespace {

constexpr std::string_view kLineEnd = "\r\n";
constexpr std::size_t kServicesMax = std::size_t{1} << 30;  // twice as many buckets fit an id

char to_lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

bool same_name(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return to_lower(x) == to_lower(y); });
}

bool name_before(std::string_view a, std::string_view b) {
  return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end(),
                                      [](char x, char y) { return to_lower(x) < to_lower(y); });
}

// FNV-1a, then the finish of MurmurHash3: FNV alone leaves the low bits, which choose the bucket,
// poorly mixed for names that differ in their last byte.
std::uint32_t hash_of(std::string_view name) {
  std::uint32_t hash = 0x811C9DC5;
  for (const char c : name)
    hash = (hash ^ static_cast<unsigned char>(to_lower(c))) * 0x01000193;
  hash = (hash ^ (hash >> 16)) * 0x85EBCA6B;
  hash = (hash ^ (hash >> 13)) * 0xC2B2AE35;
  return hash ^ (hash >> 16);
}

Status check_service(const Service& service) {
  if (const auto why = why_not_a_service_name(service.name)) return fail(*why);
  if (service.message.find_first_of(kLineEnd) != std::string::npos)
    return fail("the message of service '" + service.name + "' has a line end in it");
  if (service.message.size() > kServiceMessageBytesMax)
    return fail("the message of service '" + service.name + "' has more than " +
                std::to_string(kServiceMessageBytesMax) + " bytes");
  return {};
}

std::string make_help_reply(const std::vector<Service>& services) {
  std::vector<std::string_view> names;
  std::size_t bytes = 0;
  for (const Service& service : services) {
    if (service.hidden || service.removed) continue;
    names.push_back(service.name);
    bytes += service.name.size() + kLineEnd.size();
  }
  std::sort(names.begin(), names.end(), name_before);
  std::string reply;
  reply.reserve(bytes);
  for (const std::string_view name : names)
    reply.append(name).append(kLineEnd);
  return reply;
}

}  // namespace

std::optional<std::string> why_not_a_service_name(std::string_view name) {
  if (name.empty()) return "a service's name is not empty";
  if (name.size() > kServiceNameBytesMax)
    return "a service's name has at most " + std::to_string(kServiceNameBytesMax) +
           " bytes; this one has " + std::to_string(name.size());
  const auto visible = [](char c) { return c >= 0x21 && c <= 0x7E; };
  if (!std::all_of(name.begin(), name.end(), visible))
    return "a service's name has visible ASCII only: no space, control or 8-bit character";
  if (same_name(name, "help")) return "'help' is reserved by RFC 1078: it lists the services";
  return std::nullopt;
}

Result<ServiceTable> ServiceTable::build(std::vector<Service> services) {
  TCPMUX_CHECK(services.size() <= kServicesMax, "a service's id has 32 bits");
  ServiceTable table;
  table.services_ = std::move(services);
  table.buckets_.assign(std::bit_ceil(table.services_.size() * 2 + 1), kNoService);
  table.hashes_.reserve(table.services_.size());
  table.accept_replies_.reserve(table.services_.size());
  const std::size_t mask = table.buckets_.size() - 1;
  for (ServiceId id = 0; id < table.services_.size(); ++id) {
    const Service& service = table.services_[id];
    if (const Status good = check_service(service); !good) return std::unexpected(good.error());
    if (const ServiceId other = table.find(service.name); other != kNoService)
      return fail("there are two services '" + table[other].name + "' and '" + service.name +
                  "', but names are compared without case; rename one");
    table.hashes_.push_back(hash_of(service.name));
    table.accept_replies_.push_back("+" + service.message + std::string(kLineEnd));
    std::size_t bucket = table.hashes_.back() & mask;
    while (table.buckets_[bucket] != kNoService)
      bucket = (bucket + 1) & mask;
    table.buckets_[bucket] = id;
  }
  table.help_reply_ = make_help_reply(table.services_);
  return table;
}

Result<ServiceTable> ServiceTable::with(Service service) const {
  std::vector<Service> services;
  services.reserve(services_.size() + 1);
  services = services_;
  const ServiceId removed = find(service.name);
  if (removed != kNoService && services[removed].removed)
    services[removed] = std::move(service);
  else
    services.push_back(std::move(service));
  return build(std::move(services));
}

ServiceTable ServiceTable::after(const ServiceTable& before, bool keep_unconfigured) const {
  std::vector<Service> services = before.services_;
  for (Service& service : services) {
    const ServiceId id = find(service.name);
    if (id != kNoService) {
      service = services_[id];
    } else if (service.configured || !keep_unconfigured) {
      service.configured = false;
      service.removed = true;
    }
  }
  for (const Service& service : services_)
    if (before.find(service.name) == kNoService) services.push_back(service);
  Result<ServiceTable> table = build(std::move(services));
  TCPMUX_CHECK(table.has_value(), "names of two good tables, each once, make a good table");
  return *std::move(table);
}

ServiceId ServiceTable::find(std::string_view name) const {
  // The longest name bounds the cost of the hash, whoever asks.
  if (name.size() > kServiceNameBytesMax || buckets_.empty()) return kNoService;
  const std::uint32_t hash = hash_of(name);
  const std::size_t mask = buckets_.size() - 1;
  for (std::size_t bucket = hash & mask;; bucket = (bucket + 1) & mask) {
    const ServiceId id = buckets_[bucket];
    if (id == kNoService) return kNoService;
    if (hashes_[id] == hash && same_name(services_[id].name, name)) return id;
  }
}

std::string_view ServiceTable::accept_reply(ServiceId id) const {
  return accept_replies_[id];
}

}  // namespace tcpmux
