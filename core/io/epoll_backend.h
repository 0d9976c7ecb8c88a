// IoBackend on epoll, for where io_uring is refused. One for each shard, used on its thread.
//
// Optimistic: an operation is tried when it is started (MSG_DONTWAIT: the sockets stay in blocking
// mode), and its result queued for reap() or wait(). What would have to wait is parked in the
// record of its descriptor and tried again when epoll reports the descriptor:
//
//   start -> done: queued
//         -> would wait: parked, watched -> event: tried again -> queued, or still parked
//                                        -> cancel: queued as -ECANCELED
//
// Connections are watched edge-triggered, from the first wait to close(): waiting again costs no
// system call, and one that is served at once is never watched at all.
#pragma once

#include <sys/epoll.h>

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "core/base/fd.h"
#include "core/base/result.h"
#include "core/io/backend.h"
#include "core/io/completion_queue.h"
#include "core/io/immediate.h"
#include "core/io/lazy_array.h"

namespace tcpmux {

class EpollBackend final : public ImmediateCalls {
 public:
  static Result<std::unique_ptr<EpollBackend>> create(const IoLimits& limits);
  ~EpollBackend();

  void accept(Tag tag, int fd);
  void watch_wakeups(Tag tag, int fd);
  void peek(Tag tag, int fd, std::span<char> buffer);
  void discard(Tag tag, int fd, std::size_t count);
  void reply(Tag tag, int fd, std::size_t count, std::span<const char> bytes, bool hold_back);
  void drain(Tag tag, int fd);
  void cancel(Tag tag, int fd);
  void let_go(int fd);
  void close(int fd);

  std::size_t reap(std::span<Completion> completions);
  std::size_t wait(std::span<Completion> completions, std::int64_t deadline_ns);

 private:
  enum class Kind : std::uint8_t { kNone, kAccept, kWakeup, kPeek, kDiscard, kReply, kDrain };

  // An operation that is tried until it is done. All zero is none.
  struct Pending {
    Tag tag;
    Kind kind = Kind::kNone;
    bool hold_back = false;       // reply
    std::uint32_t size = 0;       // peek: of the buffer; reply: of the bytes
    std::uint32_t to_take = 0;    // discard, reply: bytes that are still to be discarded
    std::uint32_t taken = 0;      // discard: bytes that were
    char* into = nullptr;         // peek
    const char* bytes = nullptr;  // reply
  };

  // What we know of a descriptor.
  struct Record {
    Pending parked;             // kind kNone exactly when nothing waits
    std::uint32_t watched = 0;  // events; 0 exactly when not registered in epoll
  };

  // The outcome of one attempt.
  struct Attempt {
    std::int32_t result = 0;
    std::uint32_t wait_for = 0;  // an event; 0 when `result` is final
  };

  EpollBackend(const IoLimits& limits, OwnFd epoll, LazyArray<Record> records);

  bool has_record(int fd) const { return static_cast<std::size_t>(fd) < records_.size(); }
  Record& record_of(int fd);
  void start(Pending pending, int fd);
  static Attempt attempt(Pending& pending, int fd);
  static Attempt attempt_peek(const Pending& pending, int fd);
  static Attempt attempt_discard(Pending& pending, int fd);
  static Attempt attempt_reply(Pending& pending, int fd);
  static Attempt attempt_drain(int fd);

  int watch(int fd, Record& record, std::uint32_t events);
  void unwatch(int fd, Record& record);
  void start_lasting(Kind kind, Tag tag, int fd, std::uint32_t events);
  void finish(Record& record, std::int32_t result);

  void end_accept(int fd, Record& record, std::int32_t result);

  int poll(int timeout_ms);
  void handle(const epoll_event& event);
  void try_again(int fd, Record& record);
  void accept_waiting(int fd, Record& record);
  void read_wakeup(int fd, const Record& record);

  OwnFd epoll_;
  LazyArray<Record> records_;
  CompletionQueue queue_;
  bool seen_all_ = false;           // by the last poll, and reap() has not said so yet
  std::uint32_t accepts_left_ = 0;  // in this turn, of all listeners
  std::array<epoll_event, 256> events_{};
};

static_assert(IoBackend<EpollBackend>);

}  // namespace tcpmux
