#include "core/base/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "core/base/check.h"

namespace tcpmux {
namespace {

IpAddress from_v4(const void* four_bytes) {
  IpAddress address{.family = IpAddress::Family::kV4};
  std::memcpy(address.bytes.data(), four_bytes, 4);
  return address;
}

IpAddress from_v6(const in6_addr& raw) {
  if (IN6_IS_ADDR_V4MAPPED(&raw)) return from_v4(raw.s6_addr + 12);
  IpAddress address{.family = IpAddress::Family::kV6};
  std::copy_n(raw.s6_addr, 16, address.bytes.begin());
  return address;
}

}  // namespace

Result<IpAddress> parse_ip_address(std::string_view text) {
  const std::string copy(text);
  if (copy.find('\0') != std::string::npos) return fail("an address has no NUL byte");
  in_addr v4{};
  if (::inet_pton(AF_INET, copy.c_str(), &v4) == 1) return from_v4(&v4);
  in6_addr v6{};
  if (::inet_pton(AF_INET6, copy.c_str(), &v6) == 1) return from_v6(v6);
  return fail("'" + copy + "' is not an IPv4 or IPv6 address");
}

Result<Endpoint> parse_endpoint(std::string_view text) {
  const auto wrong = [&](const char* why) {
    return fail("'" + std::string(text) + "' " + why +
                "; write ADDRESS:PORT, as in 127.0.0.1:4000 or [::1]:4000");
  };
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return wrong("has no port");
  std::string_view host = text.substr(0, colon);
  const std::string_view port_text = text.substr(colon + 1);
  const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  unsigned port = 0;
  const auto [end, error] =
      std::from_chars(port_text.data(), port_text.data() + port_text.size(), port);
  if (error != std::errc{} || end != port_text.data() + port_text.size() || port > 65535)
    return wrong("has no port number from 0 to 65535 at its end");
  const Result<IpAddress> address = parse_ip_address(host);
  if (!address) return wrong("does not begin with an IPv4 address or an IPv6 address in brackets");
  const bool written_as_v6 = host.find(':') != std::string_view::npos;
  if (written_as_v6 != bracketed)
    return wrong(written_as_v6 ? "needs brackets around its IPv6 address"
                               : "has brackets around an IPv4 address");
  return Endpoint{*address, static_cast<std::uint16_t>(port)};
}

std::string to_string(const IpAddress& address) {
  char text[INET6_ADDRSTRLEN] = "?";
  const int family = address.family == IpAddress::Family::kV4 ? AF_INET : AF_INET6;
  if (address.family != IpAddress::Family::kNone)
    TCPMUX_CHECK(::inet_ntop(family, address.bytes.data(), text, sizeof text) != nullptr,
                 "the buffer holds every address");
  return text;
}

std::string to_string(const Endpoint& endpoint) {
  const bool v6 = endpoint.address.family == IpAddress::Family::kV6;
  std::string text(v6 ? "[" : "");
  text.append(to_string(endpoint.address)).append(v6 ? "]:" : ":");
  return text.append(std::to_string(endpoint.port));
}

Endpoint endpoint_from(const sockaddr_storage& from) {
  if (from.ss_family == AF_INET) {
    sockaddr_in v4;
    std::memcpy(&v4, &from, sizeof v4);
    return {from_v4(&v4.sin_addr), ntohs(v4.sin_port)};
  }
  if (from.ss_family == AF_INET6) {
    sockaddr_in6 v6;
    std::memcpy(&v6, &from, sizeof v6);
    return {from_v6(v6.sin6_addr), ntohs(v6.sin6_port)};
  }
  return {};
}

socklen_t to_sockaddr(const Endpoint& endpoint, sockaddr_storage& to) {
  to = {};
  if (endpoint.address.family == IpAddress::Family::kV4) {
    sockaddr_in v4{};
    v4.sin_family = AF_INET;
    v4.sin_port = htons(endpoint.port);
    std::memcpy(&v4.sin_addr, endpoint.address.bytes.data(), 4);
    std::memcpy(&to, &v4, sizeof v4);
    return sizeof v4;
  }
  TCPMUX_CHECK(endpoint.address.family == IpAddress::Family::kV6, "an endpoint has a family");
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(endpoint.port);
  std::copy_n(endpoint.address.bytes.begin(), 16, v6.sin6_addr.s6_addr);
  std::memcpy(&to, &v6, sizeof v6);
  return sizeof v6;
}

}  // namespace tcpmux
