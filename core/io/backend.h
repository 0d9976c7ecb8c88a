// The seam between the mux and the kernel: the concept IoBackend. A shard is written against it
// once and runs on io_uring (uring_backend.h) and on epoll (epoll_backend.h).
//
// It speaks of completions, not of readiness: a shard starts an operation, names it with a tag, and
// later finds exactly one completion with that tag (accept: one for each connection, until one
// without `more`). Starting never blocks, and never completes on the spot: completions come out of
// reap() and wait() alone, so a caller is never called back in the middle of something.
//
// Buffers and descriptors that were passed in belong to the engine until the completion; a
// cancelled operation completes too (with -ECANCELED, or with its result if that was faster).
//
// On one connection one operation is in flight at a time.
//
// An engine is made, used and destroyed on one thread. Its end cancels what is in flight, and
// closes connections that were accepted and not yet reaped.
//
// Which calls may block: only wait().
#pragma once

#include <sys/socket.h>

#include <concepts>
#include <cstdint>
#include <span>

#include "core/base/address.h"
#include "core/base/slot_pool.h"

namespace tcpmux {

// Listeners that one engine accepts from at the same time.
inline constexpr std::uint32_t kAcceptsMax = 64;

// What the operation is, from the shard's point of view. The engine only carries it back (in four
// bits; the other four of its byte are the engine's). Accept and reply are tagged as such.
enum class Operation : std::uint8_t {
  kNone,    // engines use this for what no one waits for
  kAccept,  // slot.index: which listener
  kWakeup,  // the mailbox has something
  kPeek,    // slot: the connection
  kDiscard,
  kReply,
  kDrain,
};

// Names an operation in flight. Fits the 64 bits that the kernel carries for us.
struct Tag {
  Operation operation = Operation::kNone;
  SlotName slot{};

  std::uint64_t pack() const {
    return (std::uint64_t{slot.index} << 32) | (std::uint64_t{slot.generation & 0xFFFFFF} << 8) |
           static_cast<std::uint64_t>(operation);
  }
  static Tag unpack(std::uint64_t bits) {
    return {.operation = static_cast<Operation>(bits & 0xFF),
            .slot = {.index = static_cast<std::uint32_t>(bits >> 32),
                     .generation = static_cast<std::uint32_t>((bits >> 8) & 0xFFFFFF)}};
  }
};

struct Completion {
  Tag tag;
  std::int32_t result = 0;  // as the system call: a count, a descriptor, or a negative errno
  bool more = false;        // accept and wakeup: the operation goes on
};

// Everything is sized at start.
struct IoLimits {
  std::uint32_t operations_max = 0;   // in flight at once, all kinds together
  std::uint32_t descriptors_max = 0;  // numbers that a descriptor may have (RLIMIT_NOFILE)
};

struct Endpoints {
  Endpoint source;  // family kNone where the peer is gone already
  Endpoint destination;
};

enum class Shed : std::uint8_t { kOne, kNobodyWaits, kNoDescriptor };

template <class Io>
concept IoBackend = requires(Io io, Tag tag, int fd, std::span<char> buffer,
                             std::span<const char> bytes, std::size_t count, msghdr* message,
                             std::span<Completion> completions, std::int64_t deadline_ns) {
  // --- operations: started here, finished in a completion ---

  // Accepts until cancelled or an error that is of the listener (descriptors, memory); errors of
  // one connection are passed over. result: the connection (close-on-exec, blocking mode: that flag
  // goes with the socket to the backend; no operation here depends on it). An ending completion
  // (`more` false) may carry a valid descriptor. O_NONBLOCK of the listener, which all that share
  // its open file description see, is the engine's from here on.
  { io.accept(tag, fd) } -> std::same_as<void>;
  // Completes with 1 each time the eventfd `fd` was signalled, having reset it. Goes on for ever,
  // or until an error of the engine's (memory): that completion is without `more`.
  { io.watch_wakeups(tag, fd) } -> std::same_as<void>;
  // recv with MSG_PEEK: waits until there is something; 0 is the peer's FIN.
  { io.peek(tag, fd, buffer) } -> std::same_as<void>;
  // Takes exactly `count` bytes that a peek has seen out of the socket, without copying them.
  { io.discard(tag, fd, count) } -> std::same_as<void>;
  // Discards `count` bytes that a peek has seen (0: none), then sends `bytes`, as many as the send
  // queue takes at once; where it takes none, waits until it does (a new socket's has room, so less
  // than all, or a wait, means that the client does not read). One completion: bytes sent, or the
  // error of the step that failed (-ENODATA: fewer than `count` bytes were there), in which case
  // `bytes` may have been sent or not. `hold_back` is MSG_MORE.
  { io.reply(tag, fd, count, bytes, bool{} /* hold_back */) } -> std::same_as<void>;
  // Takes what has arrived, up to an amount of the engine's choice, without copying: waits until
  // there is something; 0 is the peer's FIN.
  { io.drain(tag, fd) } -> std::same_as<void>;
  // Ends the operation `tag` on `fd`, which still completes. None in flight: nothing happens.
  { io.cancel(tag, fd) } -> std::same_as<void>;
  // The descriptor stays open and becomes somebody else's of this process (another shard's): the
  // engine forgets the number. No operation on it may be in flight.
  { io.let_go(fd) } -> std::same_as<void>;

  // --- immediate calls: cheap, or rare ---

  // No operation on `fd` may be in flight. Not an operation, because it matters when it happens:
  // whoever closes a socket last sends the FIN, and that is to be the backend (router.h).
  { io.close(fd) } -> std::same_as<void>;
  // sendmsg with MSG_DONTWAIT: bytes, or a negative errno (-EAGAIN: the queue is full).
  { io.send_now(fd, message) } -> std::same_as<std::int64_t>;
  // shutdown(SHUT_WR); a peer that is gone already is no error.
  { io.shutdown_write(fd) } -> std::same_as<void>;
  // getpeername and getsockname.
  { io.endpoints(fd) } -> std::same_as<Endpoints>;
  // SIOCINQ: the payload bytes of all messages that wait to be received on a Unix socket. The
  // kernel walks the queue (about 10 ns a message).
  { io.queued_bytes(fd) } -> std::same_as<std::uint32_t>;
  // recvmsg with MSG_DONTWAIT and MSG_CMSG_CLOEXEC: bytes, or a negative errno.
  { io.receive_now(fd, message) } -> std::same_as<std::int64_t>;
  // Whether so many more descriptors can be had now. recvmsg destroys what finds no place in the
  // table, and only says so afterwards.
  { io.has_room_for(count) } -> std::same_as<bool>;
  // One connection that waits at the listener `fd`, which nothing accepts from: a descriptor
  // (close-on-exec, blocking mode), or a negative errno (-EAGAIN: nobody waits).
  { io.accept_now(fd) } -> std::same_as<int>;
  // Tells `bytes` as far as that is possible at once, and shuts down; close() comes next.
  { io.dismiss(fd, bytes) } -> std::same_as<void>;
  // At the descriptor limit: takes one connection from the listener `fd` by means of a descriptor
  // kept in reserve, dismisses it with `bytes`, and closes it.
  { io.shed(fd, bytes) } -> std::same_as<Shed>;

  // --- the turn of the loop ---

  // Starts what was asked for, and gives completions that are there; does not wait.
  { io.reap(completions) } -> std::same_as<std::size_t>;
  // The same, but waits until there is one, until the time has come, or a signal interrupts it.
  { io.wait(completions, deadline_ns) } -> std::same_as<std::size_t>;
};

}  // namespace tcpmux
