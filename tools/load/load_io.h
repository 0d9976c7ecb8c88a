// The seam between the client and the kernel: the concept LoadIo, with two engines (uring_io.h,
// epoll_io.h). As in core/io/backend.h it speaks of completions: every operation that is started
// here completes once, in wait(), and nothing is called back in between.
//
// Connecting, sending and receiving may be started together, in this order, before the connection
// is there: what cannot be done yet waits. A slot has at most one of each in flight, and is closed
// with none. Buffers, and the target's address, stay where they are until the completion.
#pragma once

#include <sys/socket.h>

#include <concepts>
#include <cstdint>
#include <memory>
#include <span>

#include "core/base/result.h"

namespace load {

enum class Operation : std::uint8_t { kConnect, kSend, kReceive };

struct Completion {
  std::uint32_t slot = 0;
  Operation operation = Operation::kConnect;
  // kReceive: a count, or 0 for the other side's end; else 0. A negative errno where it failed.
  std::int32_t result = 0;
};

struct Target {
  const sockaddr* address = nullptr;
  socklen_t size = 0;
};

template <class Io>
concept LoadIo =
    requires(Io io, std::uint32_t slot, int fd, Target target, std::span<const char> bytes,
             std::span<char> into, std::span<Completion> completions, std::int64_t until_ns) {
      // Of the sockets that the engine is given: SOCK_NONBLOCK or 0.
      { Io::kSocketFlags } -> std::convertible_to<int>;
      { Io::create(slot /* how many */) } -> std::same_as<tcpmux::Result<std::unique_ptr<Io>>>;

      { io.connect(slot, fd, target) } -> std::same_as<void>;
      // All of the bytes.
      { io.send(slot, fd, bytes) } -> std::same_as<void>;
      // Some bytes.
      { io.receive(slot, fd, into) } -> std::same_as<void>;
      // What is in flight on the slot ends, with -ECANCELED where it was not faster.
      { io.cancel(slot, fd) } -> std::same_as<void>;
      { io.close(slot, fd) } -> std::same_as<void>;

      // Starts what was asked for, and waits until something has completed or the time has come;
      // the only call that may block. A signal ends it early.
      { io.wait(completions, until_ns) } -> std::same_as<std::size_t>;
    };

}  // namespace load
