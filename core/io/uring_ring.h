// One io_uring instance: its creation on whatever the kernel offers, and the way in and out. What
// the entries mean is the affair of uring_backend.h.
//
// It maps with liburing, and enters the kernel by itself: a turn of the loop is at most one call,
// with all that is to be submitted, and none at all when there is nothing to do.
#pragma once

#include <liburing.h>
#include <sys/types.h>

#include <cstdint>

#include "core/base/result.h"

namespace tcpmux {

class UringRing {
 public:
  UringRing() = default;
  ~UringRing();
  UringRing(const UringRing&) = delete;
  UringRing& operator=(const UringRing&) = delete;

  // To be called once, on the thread that will use the ring: the kernel lets no other one in.
  Status open(unsigned submissions, unsigned completions);

  // An entry to be filled by io_uring_prep_*. Room is made by submitting what is there.
  io_uring_sqe* next_entry() {
    if (room() == 0) make_room();
    return &ring_.sq.sqes[ring_.sq.sqe_tail++ & ring_.sq.ring_mask];
  }

  // Something to submit, or completions that the kernel holds back until it is entered.
  bool needs_enter() const {
    constexpr unsigned kHeldBack = IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW;
    return unsubmitted() > 0 || (IO_URING_READ_ONCE(*ring_.sq.kflags) & kHeldBack) != 0;
  }
  // Submits, and lets the kernel post completions. Returns 0, or a negative errno of those that
  // need no care: -EINTR, -EAGAIN and -EBUSY (not all submitted; to be tried again), -ETIME.
  int enter() { return enter(0, nullptr); }
  // The same, but waits for a completion, for at most `timeout_ns` (kNever_ns: for ever).
  int enter_and_wait(std::int64_t timeout_ns);

  // Completions: there are `ready`, counted from 0; `consume` returns the room of the first.
  unsigned ready() const { return io_uring_smp_load_acquire(ring_.cq.ktail) - *ring_.cq.khead; }
  const io_uring_cqe& completion(unsigned offset) const {
    return ring_.cq.cqes[(*ring_.cq.khead + offset) & ring_.cq.ring_mask];
  }
  void consume(unsigned count) { io_uring_cq_advance(&ring_, count); }

  // Ends every operation in flight. Their completions follow.
  void cancel_everything();

  bool is_open() const { return open_; }
  bool on_its_thread() const;

 private:
  unsigned unsubmitted() const {
    return ring_.sq.sqe_tail - io_uring_smp_load_acquire(ring_.sq.khead);
  }
  unsigned room() const { return ring_.sq.ring_entries - unsubmitted(); }
  void make_room();
  int enter(unsigned wait_for, const __kernel_timespec* timeout);
  Status map(int fd, io_uring_params& parameters);

  io_uring ring_{};
  unsigned enter_flags_ = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG;
  pid_t thread_ = 0;
  bool open_ = false;
};

}  // namespace tcpmux
