#include "core/mux/policy.h"

#include <algorithm>
#include <charconv>

#include "core/base/check.h"

namespace tcpmux {
namespace {

constexpr std::uint32_t kRootV4 = 0;
constexpr std::uint32_t kRootV6 = 1;
constexpr int kMappedBits = 96;  // the length of ::ffff:0:0/96, behind which IPv4 begins

std::uint32_t root_of(const IpAddress& address) {
  return address.family == IpAddress::Family::kV4 ? kRootV4 : kRootV6;
}

// Bit 0 is the first on the wire.
int bit_at(const IpAddress& address, int index) {
  const std::uint8_t byte = address.bytes[static_cast<std::size_t>(index / 8)];
  return (byte >> (7 - index % 8)) & 1;
}

IpAddress cut_behind(IpAddress address, int length) {
  for (int index = length; index < address.bits(); ++index) {
    std::uint8_t& byte = address.bytes[static_cast<std::size_t>(index / 8)];
    byte = static_cast<std::uint8_t>(byte & ~(1 << (7 - index % 8)));
  }
  return address;
}

// -1 where `text` is not a number from 0 to `length_max`.
int parse_length(std::string_view text, int length_max) {
  int length = -1;
  const char* const text_end = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), text_end, length);
  const bool good = error == std::errc{} && end == text_end && length >= 0 && length <= length_max;
  return good ? length : -1;
}

}  // namespace

Result<Prefix> parse_prefix(std::string_view text) {
  const auto wrong = [&](const std::string& why) {
    return fail("'" + std::string(text) + "' " + why);
  };
  const std::size_t slash = text.find('/');
  const std::string_view host = text.substr(0, slash);
  // The parser of addresses takes C strings, so it would not see what stands behind a NUL.
  const Result<IpAddress> address =
      host.find('\0') == std::string_view::npos ? parse_ip_address(host) : fail("");
  if (!address)
    return wrong("is not an address or a prefix; write one as 10.0.0.0/8, 192.0.2.7 or fd00::/8");
  if (slash == std::string_view::npos) return Prefix{*address, address->bits()};

  const bool written_as_v6 = host.find(':') != std::string_view::npos;
  const bool mapped = written_as_v6 && address->family == IpAddress::Family::kV4;
  const int length_max = written_as_v6 ? 128 : 32;
  int length = parse_length(text.substr(slash + 1), length_max);
  if (length < 0)
    return wrong("needs a length from 0 to " + std::to_string(length_max) + " behind its slash");
  if (mapped) length -= kMappedBits;
  if (length < 0) return wrong("is IPv4 in IPv6 form, so its length is from 96 to 128");
  const Prefix prefix{cut_behind(*address, length), length};
  if (prefix.address != *address)
    return wrong("has bits set behind its length; write " + to_string(prefix));
  return prefix;
}

std::string to_string(const Prefix& prefix) {
  return to_string(prefix.address) + "/" + std::to_string(prefix.length);
}

Result<AccessRules> AccessRules::build(const std::vector<Prefix>& allow,
                                       const std::vector<Prefix>& deny) {
  std::vector<Prefix> allowed = allow;
  std::sort(allowed.begin(), allowed.end());
  for (const Prefix& prefix : deny)
    if (std::binary_search(allowed.begin(), allowed.end(), prefix))
      return fail(to_string(prefix) + " is both allowed and denied; take it out of one list");

  AccessRules rules;
  rules.allow_by_default_ = allow.empty();
  if (allow.empty() && deny.empty()) return rules;
  rules.nodes_.resize(2);
  for (const Prefix& prefix : allow)
    rules.insert(prefix, Verdict::kAllow);
  for (const Prefix& prefix : deny)
    rules.insert(prefix, Verdict::kDeny);
  return rules;
}

void AccessRules::insert(const Prefix& prefix, Verdict verdict) {
  TCPMUX_CHECK(prefix.address.family != IpAddress::Family::kNone, "a prefix has a family");
  TCPMUX_CHECK(prefix.length >= 0 && prefix.length <= prefix.address.bits(),
               "a prefix is no longer than its address");
  std::uint32_t at = root_of(prefix.address);
  for (int index = 0; index < prefix.length; ++index) {
    const int bit = bit_at(prefix.address, index);
    std::uint32_t child = nodes_[at].child[bit];
    if (child == 0) {
      child = static_cast<std::uint32_t>(nodes_.size());
      nodes_[at].child[bit] = child;
      nodes_.emplace_back();
    }
    at = child;
  }
  nodes_[at].verdict = verdict;
}

bool AccessRules::allows(const IpAddress& address) const {
  if (everyone()) return true;
  if (address.family == IpAddress::Family::kNone) return false;
  Verdict longest = Verdict::kNone;
  std::uint32_t at = root_of(address);
  const int bits = address.bits();
  for (int index = 0;; ++index) {
    const Node& node = nodes_[at];
    if (node.verdict != Verdict::kNone) longest = node.verdict;
    if (index == bits) break;
    at = node.child[bit_at(address, index)];
    if (at == 0) break;
  }
  return longest == Verdict::kNone ? allow_by_default_ : longest == Verdict::kAllow;
}

}  // namespace tcpmux
