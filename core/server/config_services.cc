#include "core/server/config_services.h"

#include <algorithm>
#include <map>
#include <unordered_map>
#include <utility>

namespace tcpmux {
namespace {

constexpr std::string_view kSection = "services.NAME";
constexpr std::size_t kLineEndBytes = 2;
constexpr std::size_t kPathNameBytesMax = 64;  // of a name, in messages

struct Entry {
  std::string name;
  Place place;
  const toml::node* node;
};

// In the order of the file, which is also that of the ids; toml::table is sorted by name.
std::vector<Entry> entries_of(const toml::table& services) {
  std::vector<Entry> entries;
  entries.reserve(services.size());
  for (const auto& [key, node] : services)
    entries.push_back({std::string(key.str()), place_of(key), &node});
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.place < b.place; });
  return entries;
}

void check_name(Complaints& complaints, const Entry& entry, std::uint32_t line_bytes_max) {
  if (const auto why = why_not_a_service_name(entry.name))
    return complaints.add(entry.place, "service " + quoted(entry.name) + ": " + *why);
  const std::size_t line_bytes = entry.name.size() + kLineEndBytes;
  if (line_bytes > line_bytes_max)
    complaints.add(entry.place, "service " + quoted(entry.name) + ": its request line has " +
                                    std::to_string(line_bytes) +
                                    " bytes, more than handshake.line_bytes_max = " +
                                    std::to_string(line_bytes_max) + "; raise that");
}

std::string read_message(TableReader& table) {
  const auto message = table.read_string("message", "\"echo ready\"");
  if (!message) return {};
  const auto control = [](unsigned char c) { return c < 0x20 || c == 0x7F; };
  const std::string& text = message->value;
  if (std::any_of(text.begin(), text.end(), control))
    table.complaints().add(message->place, "message " + quoted(text) +
                                               " has a line end or another control character in "
                                               "it; it is one line of text");
  if (text.size() > kServiceMessageBytesMax)
    table.complaints().add(message->place, "message has " + std::to_string(text.size()) +
                                               " bytes; it has at most " +
                                               std::to_string(kServiceMessageBytesMax));
  return text;
}

std::vector<Placed<Prefix>> read_prefixes(TableReader& table, std::string_view key) {
  std::vector<Placed<Prefix>> prefixes;
  const auto list = table.read_strings(key, "[\"10.0.0.0/8\", \"::1\"]");
  if (!list) return prefixes;
  for (const auto& [text, place] : list->strings) {
    if (const Result<Prefix> prefix = parse_prefix(text)) {
      prefixes.push_back({*prefix, place});
    } else {
      table.complaints().add(place, std::string(key) + ": " + prefix.error().message);
    }
  }
  return prefixes;
}

std::vector<Prefix> values_of(const std::vector<Placed<Prefix>>& placed) {
  std::vector<Prefix> values;
  values.reserve(placed.size());
  for (const auto& [value, place] : placed)
    values.push_back(value);
  return values;
}

AccessRules read_access(TableReader& table) {
  const std::vector<Placed<Prefix>> allow = read_prefixes(table, "allow");
  const std::vector<Placed<Prefix>> deny = read_prefixes(table, "deny");
  std::map<Prefix, Place> allowed;
  for (const auto& [prefix, place] : allow)
    allowed.emplace(prefix, place);
  for (const auto& [prefix, place] : deny) {
    const auto clash = allowed.find(prefix);
    if (clash != allowed.end())
      table.complaints().add(place, "deny: " + to_string(prefix) + " is also allowed, in line " +
                                        std::to_string(clash->second.line) +
                                        "; take it out of one list");
  }
  return AccessRules::build(values_of(allow), values_of(deny)).value_or(AccessRules());
}

Service read_service(Reading& reading, const std::string& name, const toml::table* values) {
  Service service;
  service.name = name;
  const std::string path = "services." + printable(name.substr(0, kPathNameBytesMax));
  TableReader table(reading, values, path, kSection);
  service.message = read_message(table);
  service.access = read_access(table);
  table.read("hidden", service.hidden);
  table.read("coalesce_reply", service.coalesce_reply);
  table.read_users("users", service.users);
  table.check_unknown_keys();
  return service;
}

std::string lower_case(std::string name) {
  for (char& c : name)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return name;
}

}  // namespace

ServiceTable read_services(Reading& reading, const toml::table* services,
                           std::uint32_t line_bytes_max) {
  read_service(reading, "", nullptr);  // makes the keys known, for advice on unknown ones
  if (services == nullptr) return {};
  std::vector<Service> all;
  std::unordered_map<std::string, Place> seen;
  for (const Entry& entry : entries_of(*services)) {
    check_name(reading.complaints, entry, line_bytes_max);
    const auto [first, is_new] = seen.emplace(lower_case(entry.name), entry.place);
    if (!is_new)
      reading.complaints.add(entry.place,
                             "service " + quoted(entry.name) + " stands in line " +
                                 std::to_string(first->second.line) +
                                 " already: names are compared without case; rename one");
    if (entry.node->is_table()) {
      all.push_back(read_service(reading, entry.name, entry.node->as_table()));
    } else {
      reading.complaints.add(place_of(*entry.node),
                             "services." + entry.name + " must be a table; write [services." +
                                 entry.name + "] and its keys in the lines below");
    }
  }
  if (!reading.complaints.empty()) return {};
  Result<ServiceTable> table = ServiceTable::build(std::move(all));
  if (table) return *std::move(table);
  reading.complaints.add({}, table.error().message);
  return {};
}

}  // namespace tcpmux
