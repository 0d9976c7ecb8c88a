// The clients of one Handoff message, from when it is received until each has been given out.
#pragma once

#include <tcpmux/backend.h>

#include <array>
#include <cstddef>
#include <span>
#include <string>

#include "core/base/fd.h"
#include "core/base/result.h"
#include "handoff/message.h"

namespace tcpmux::handoff {

class SocketQueue {
 public:
  SocketQueue() = default;
  SocketQueue(const SocketQueue&) = delete;
  SocketQueue& operator=(const SocketQueue&) = delete;

  bool empty() const { return next_ == count_; }
  // Takes the sockets of a Handoff and their facts. The queue is empty. `sockets` may be fewer than
  // the message tells of when `some_were_lost`; the queue then has the first. An error when the
  // message is malformed: nothing is queued, and the sockets stay with the caller.
  Status fill(std::span<const std::byte> message, std::span<OwnFd> sockets, bool some_were_lost);
  void make_nonblocking();
  // Gives one away; its facts are valid until the next fill(). The queue is not empty.
  int take(const tcpmux_facts*& facts);
  // Closes what was not given out.
  void clear();

 private:
  struct Entry {
    OwnFd socket;
    tcpmux_facts facts{};
    std::array<char, 256> service{};  // what facts.service points to
  };

  std::array<Entry, kSocketsPerMessageMax> entries_;
  std::size_t next_ = 0;
  std::size_t count_ = 0;
};

}  // namespace tcpmux::handoff
