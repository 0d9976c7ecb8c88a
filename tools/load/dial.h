// Where connections go and where they come from: the target's address, sockets that are bound to
// many loopback addresses in turn, and what they have switched on.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>

#include "core/base/address.h"

namespace load {

struct DialOptions {
  tcpmux::Endpoint target;
  std::uint32_t source_addresses = 16;
  bool reset = false;     // close() sends RST
  bool no_delay = false;  // small segments go out at once
};

// "127.0.0.0/8" and "::1".
bool is_loopback(const tcpmux::IpAddress& address);

class Dialer {
 public:
  explicit Dialer(const DialOptions& options);

  // A new socket (`flags`: SOCK_NONBLOCK or 0) for the connection of that number, bound where
  // sources are spread; or a negative errno.
  int make_socket(std::uint64_t number, int flags) const;

  const sockaddr* target() const { return reinterpret_cast<const sockaddr*>(&target_); }
  socklen_t target_size() const { return target_size_; }

 private:
  bool prepare(int fd, std::uint64_t number) const;

  DialOptions options_;
  bool spread_ = false;
  sockaddr_storage target_{};
  socklen_t target_size_ = 0;
};

}  // namespace load
