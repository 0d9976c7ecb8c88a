// Addresses and endpoints: what is read, what is refused, and that they survive a sockaddr.
#include "core/base/address.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <cstring>
#include <string>

namespace tcpmux {
namespace {

using Family = IpAddress::Family;

TEST(Address, ReadsBothFamilies) {
  const IpAddress v4 = parse_ip_address("192.0.2.7").value();
  EXPECT_EQ(v4.family, Family::kV4);
  EXPECT_EQ(v4.bits(), 32);
  EXPECT_EQ(v4.bytes, (std::array<std::uint8_t, 16>{192, 0, 2, 7}));
  const IpAddress v6 = parse_ip_address("2001:db8::7").value();
  EXPECT_EQ(v6.family, Family::kV6);
  EXPECT_EQ(v6.bits(), 128);
  EXPECT_EQ(v6.bytes, (std::array<std::uint8_t, 16>{0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0,  //
                                                    0, 0, 0, 0, 0, 0, 0, 7}));
  EXPECT_EQ(IpAddress{}.bits(), 0);
}

TEST(Address, HoldsV4MappedAsV4) {
  EXPECT_EQ(parse_ip_address("::ffff:192.0.2.7").value(), parse_ip_address("192.0.2.7").value());
  EXPECT_EQ(parse_ip_address("::ffff:c000:207").value(), parse_ip_address("192.0.2.7").value());
  EXPECT_EQ(parse_ip_address("::192.0.2.7").value().family, Family::kV6) << "v4-compatible is v6";
}

TEST(Address, RefusesAnAddressWithRubbishBehindANul) {
  using namespace std::string_view_literals;
  EXPECT_FALSE(parse_ip_address("1.2.3.4\0rubbish"sv).has_value());
  EXPECT_FALSE(parse_endpoint("1.2.3.4\0rubbish:80"sv).has_value());
}

TEST(Address, RefusesWhatIsNone) {
  for (const char* text : {"", " ", "localhost", "1.2.3", "1.2.3.4.5", "256.1.1.1", "1.2.3.4 ",
                           "01.2.3.4", "::1::", "12345::", "[::1]", "::1%lo", "1.2.3.4/8"}) {
    const Result<IpAddress> address = parse_ip_address(text);
    ASSERT_FALSE(address.has_value()) << text;
    EXPECT_NE(address.error().message.find(std::string("'") + text + "'"), std::string::npos);
  }
}

TEST(Endpoint, ReadsAndWrites) {
  for (const char* text : {"127.0.0.1:80", "0.0.0.0:0", "255.255.255.255:65535", "[::1]:4000",
                           "[::]:1", "[2001:db8::7]:65535"})
    EXPECT_EQ(to_string(parse_endpoint(text).value()), text);
  EXPECT_EQ(to_string(parse_endpoint("[::ffff:192.0.2.7]:80").value()), "192.0.2.7:80");
  EXPECT_EQ(parse_endpoint("127.0.0.1:80").value().port, 80);
}

TEST(Endpoint, RefusesWithAdvice) {
  const struct {
    const char* text;
    const char* advice;
  } cases[] = {
      {"", "has no port"},
      {"127.0.0.1", "has no port"},
      {"127.0.0.1:", "no port number"},
      {"127.0.0.1:http", "no port number"},
      {"127.0.0.1:65536", "no port number"},
      {"127.0.0.1:-1", "no port number"},
      {"127.0.0.1:+1", "no port number"},
      {"127.0.0.1:80 ", "no port number"},
      {"127.0.0.1:99999999999", "no port number"},
      {":80", "does not begin with"},
      {"*:80", "does not begin with"},
      {"localhost:80", "does not begin with"},
      {"[]:80", "does not begin with"},
      {"[::1:80", "does not begin with"},
      {"[127.0.0.1]:80", "brackets around an IPv4"},
      {"::1:80", "needs brackets"},
      {"::ffff:1.2.3.4:80", "needs brackets"},
  };
  for (const auto& [text, advice] : cases) {
    const Result<Endpoint> endpoint = parse_endpoint(text);
    ASSERT_FALSE(endpoint.has_value()) << text;
    const std::string& message = endpoint.error().message;
    EXPECT_NE(message.find(advice), std::string::npos) << text << ": " << message;
    EXPECT_NE(message.find("write ADDRESS:PORT"), std::string::npos) << message;
  }
}

TEST(Endpoint, SurvivesASockaddr) {
  for (const char* text : {"192.0.2.7:8080", "[2001:db8::7]:8080"}) {
    const Endpoint endpoint = parse_endpoint(text).value();
    sockaddr_storage raw;
    std::memset(&raw, 0xFF, sizeof raw);
    const socklen_t length = to_sockaddr(endpoint, raw);
    EXPECT_EQ(length, raw.ss_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
    EXPECT_EQ(endpoint_from(raw), endpoint);
  }
}

TEST(Endpoint, WritesNetworkOrder) {
  sockaddr_storage raw;
  to_sockaddr(parse_endpoint("1.2.3.4:258").value(), raw);
  sockaddr_in v4;
  std::memcpy(&v4, &raw, sizeof v4);
  EXPECT_EQ(v4.sin_family, AF_INET);
  EXPECT_EQ(v4.sin_port, htons(258));
  EXPECT_EQ(v4.sin_addr.s_addr, htonl(0x01020304));
}

TEST(Endpoint, FromAMappedSockaddrIsV4) {
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(80);
  v6.sin6_addr = {{{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 192, 0, 2, 7}}};
  sockaddr_storage raw{};
  std::memcpy(&raw, &v6, sizeof v6);
  EXPECT_EQ(to_string(endpoint_from(raw)), "192.0.2.7:80");
}

TEST(Endpoint, FromAnotherFamilyHasNone) {
  sockaddr_storage raw{};
  EXPECT_EQ(endpoint_from(raw), Endpoint{});
  raw.ss_family = AF_UNIX;
  EXPECT_EQ(endpoint_from(raw).address.family, Family::kNone);
  EXPECT_EQ(to_string(IpAddress{}), "?");
}

TEST(EndpointDeath, WithoutAFamilyHasNoSockaddr) {
  sockaddr_storage raw;
  EXPECT_DEATH(to_sockaddr(Endpoint{}, raw), "an endpoint has a family");
}

}  // namespace
}  // namespace tcpmux
