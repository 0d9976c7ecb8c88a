// IP addresses and endpoints, as values. An IPv4 address that arrives v4-mapped (::ffff:a.b.c.d,
// RFC 4291 section 2.5.5.2) is held as IPv4, so that rules and backends see one form of it.
#pragma once

#include <sys/socket.h>

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/base/result.h"

namespace tcpmux {

struct IpAddress {
  enum class Family : std::uint8_t { kNone, kV4, kV6 };

  std::array<std::uint8_t, 16> bytes{};  // network order; IPv4 in the first four, rest zero
  Family family = Family::kNone;

  int bits() const { return family == Family::kV4 ? 32 : family == Family::kV6 ? 128 : 0; }
  friend auto operator<=>(const IpAddress&, const IpAddress&) = default;
};

struct Endpoint {
  IpAddress address;
  std::uint16_t port = 0;  // host order

  friend auto operator<=>(const Endpoint&, const Endpoint&) = default;
};

// A numeric address only; names are not looked up.
Result<IpAddress> parse_ip_address(std::string_view text);
// "127.0.0.1:80", "[::1]:80"; port 0 to 65535.
Result<Endpoint> parse_endpoint(std::string_view text);
std::string to_string(const IpAddress& address);
std::string to_string(const Endpoint& endpoint);

// Family kNone for anything that is not AF_INET or AF_INET6. Allocates nothing.
Endpoint endpoint_from(const sockaddr_storage& from);
// Returns the length to pass beside it. `endpoint` has a family.
socklen_t to_sockaddr(const Endpoint& endpoint, sockaddr_storage& to);

}  // namespace tcpmux
