#include "tools/load/dial.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace load {
namespace {

using Family = tcpmux::IpAddress::Family;

constexpr std::uint32_t kFirstSource = INADDR_LOOPBACK;

bool set(int fd, int level, int option, int value) {
  return ::setsockopt(fd, level, option, &value, sizeof value) == 0;
}

}  // namespace

bool is_loopback(const tcpmux::IpAddress& address) {
  if (address.family == Family::kV4) return address.bytes[0] == 127;
  return address.family == Family::kV6 && address.bytes[15] == 1 &&
         std::all_of(address.bytes.begin(), address.bytes.begin() + 15,
                     [](std::uint8_t byte) { return byte == 0; });
}

Dialer::Dialer(const DialOptions& options)
    : options_(options),
      spread_(options.target.address.family == Family::kV4 && is_loopback(options.target.address) &&
              options.source_addresses > 1),
      target_size_(tcpmux::to_sockaddr(options.target, target_)) {}

int Dialer::make_socket(std::uint64_t number, int flags) const {
  const int fd = ::socket(target_.ss_family, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
  if (fd < 0) return -errno;
  if (prepare(fd, number)) return fd;
  const int error = errno;
  ::close(fd);
  return -error;
}

bool Dialer::prepare(int fd, std::uint64_t number) const {
  if (options_.reset) {
    const linger at_once{.l_onoff = 1, .l_linger = 0};
    if (::setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) < 0) return false;
  }
  if (options_.no_delay && !set(fd, IPPROTO_TCP, TCP_NODELAY, 1)) return false;
  if (!spread_) return true;
  // The port is chosen by connect(), which may take any that is free towards this target; bind()
  // would want one that is free altogether.
  if (!set(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)) return false;
  sockaddr_in from{};
  from.sin_family = AF_INET;
  from.sin_addr.s_addr =
      htonl(kFirstSource + static_cast<std::uint32_t>(number % options_.source_addresses));
  return ::bind(fd, reinterpret_cast<const sockaddr*>(&from), sizeof from) == 0;
}

}  // namespace load
