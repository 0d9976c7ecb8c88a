// IoBackend on io_uring (Linux 6.1 or newer; 5.19 with more interrupts). One for each shard, made,
// used and destroyed on its thread.
//
// An operation is one entry of the submission queue, and its tag the entry's user_data. All that
// is asked for during a turn goes to the kernel in the one call of reap() or wait().
//
//   user_data   32 bits index | 24 bits generation | 4 bits Kind (ours) | 4 bits Operation
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "core/base/result.h"
#include "core/io/backend.h"
#include "core/io/completion_queue.h"
#include "core/io/immediate.h"
#include "core/io/uring_ring.h"

namespace tcpmux {

class UringBackend final : public ImmediateCalls {
 public:
  static Result<std::unique_ptr<UringBackend>> create(const IoLimits& limits);
  ~UringBackend();

  void accept(Tag tag, int fd);
  void watch_wakeups(Tag tag, int fd);
  void peek(Tag tag, int fd, std::span<char> buffer);
  void discard(Tag tag, int fd, std::size_t count);
  void reply(Tag tag, int fd, std::size_t count, std::span<const char> bytes, bool hold_back);
  void drain(Tag tag, int fd);
  void cancel(Tag tag, int fd);
  void let_go(int) {}

  std::size_t reap(std::span<Completion> completions);
  std::size_t wait(std::span<Completion> completions, std::int64_t deadline_ns);

 private:
  // What an entry is for us, beyond the caller's operation.
  enum class Kind : std::uint8_t {
    kPlain,         // the completion is the caller's, as it is
    kAccept,        // ended by errors of one connection too: goes on
    kReplyDiscard,  // the first of reply's two steps: completes only where it failed
    kWakeup,        // the poll of the eventfd
    kCancel,        // completes only where there was nothing to cancel
  };

  struct Accepting {
    std::uint64_t user_data = 0;
    int fd = -1;
    bool cancelled = false;
  };

  explicit UringBackend(const IoLimits& limits)
      : accepted_(kAcceptsKept),
        failed_discard_(std::make_unique_for_overwrite<Completion[]>(limits.operations_max)),
        failed_discard_capacity_(limits.operations_max) {}

  static std::uint64_t pack(Tag tag, Kind kind) {
    return tag.pack() | (static_cast<std::uint64_t>(kind) << kKindShift);
  }
  io_uring_sqe* entry_for(std::uint64_t user_data);
  void start_accept(const Accepting& accepting);
  void start_wakeup_poll();
  void start_cancel(std::uint64_t user_data);
  Accepting* find_accepting(std::uint64_t user_data);

  std::size_t take(std::span<Completion> completions);
  static Kind kind_of(const io_uring_cqe& entry) {
    return static_cast<Kind>((entry.user_data & kKindMask) >> kKindShift);
  }
  bool translate(const io_uring_cqe& entry, Completion& completion);
  void find_failed_discard(Completion& completion);
  bool translate_special(const io_uring_cqe& entry, Completion& completion);
  bool translate_accept(const io_uring_cqe& entry, Completion& completion);
  bool translate_wakeup(const io_uring_cqe& entry, Completion& completion);

  static constexpr unsigned kKindShift = 4;
  static constexpr std::uint64_t kKindMask = 0xF0;

  static constexpr std::uint32_t kAcceptsKept = 4096;

  UringRing ring_;
  std::array<Accepting, kAcceptsMax> accepting_{};
  std::uint32_t accepting_count_ = 0;
  CompletionQueue accepted_;  // of accept, to be handed out
  // Of replies whose own completion is still to come.
  std::unique_ptr<Completion[]> failed_discard_;
  std::uint32_t failed_discard_capacity_;
  std::uint32_t failed_discards_ = 0;
  Tag wakeup_tag_;
  int wakeup_fd_ = -1;
};

static_assert(IoBackend<UringBackend>);

}  // namespace tcpmux
