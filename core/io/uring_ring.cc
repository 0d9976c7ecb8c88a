#include "core/io/uring_ring.h"

#include <sched.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/io/uring_abi.h"

namespace tcpmux {
namespace {

constexpr unsigned kAlways = IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE;
// Task work waits until we ask for it: it never interrupts us, and runs in batches.
constexpr unsigned kDeferred = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                               IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL;
constexpr unsigned kCooperative =
    IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL;
constexpr std::array<unsigned, 4> kLadder = {
    kDeferred | uring_abi::kSetupNoSqArray,  // Linux 6.6
    kDeferred,                               // Linux 6.1
    kCooperative,                            // Linux 5.19
    0,
};

// A wait with a timeout, completions that are never dropped, links with one completion (5.17), and
// sockets that are waited for without a kernel thread each.
constexpr unsigned kFeatures = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG |
                               IORING_FEAT_CQE_SKIP | IORING_FEAT_FAST_POLL;

// Waits of this many rounds are the kernel out of memory for good.
constexpr int kRoundsMax = 100'000;

}  // namespace

Status UringRing::open(unsigned submissions, unsigned completions) {
  for (const unsigned flags : kLadder) {
    io_uring_params parameters{};
    parameters.flags = kAlways | flags;
    parameters.cq_entries = completions;
    const int fd = io_uring_setup(submissions, &parameters);
    if (fd >= 0) return map(fd, parameters);
    if (fd != -EINVAL) return std::unexpected(system_error("io_uring_setup", -fd));
  }
  return std::unexpected(system_error("io_uring_setup", EINVAL));
}

Status UringRing::map(int fd, io_uring_params& parameters) {
  if (const int error = io_uring_queue_mmap(fd, &parameters, &ring_); error < 0) {
    ::close(fd);
    return std::unexpected(system_error("mmap of an io_uring", -error));
  }
  ring_.features = parameters.features;
  // liburing 2.3 leaves this to io_uring_queue_init, which does not know NO_SQARRAY: there it
  // would write over the heads and tails.
  if ((parameters.flags & uring_abi::kSetupNoSqArray) == 0)
    for (unsigned i = 0; i < ring_.sq.ring_entries; ++i)
      ring_.sq.array[i] = i;
  if ((parameters.features & kFeatures) != kFeatures) {
    io_uring_queue_exit(&ring_);
    return std::unexpected(system_error("io_uring of a kernel before 5.17", ENOSYS));
  }
  // A seccomp filter may let a ring be made and refuse to have it entered.
  if (const int entered = io_uring_enter(static_cast<unsigned>(fd), 0, 0, 0, nullptr);
      entered < 0) {
    io_uring_queue_exit(&ring_);
    return std::unexpected(system_error("io_uring_enter", -entered));
  }
  open_ = true;
  thread_ = ::gettid();
  // A registered ring saves looking its descriptor up at each call (5.18); without, it works too.
  if (io_uring_register_ring_fd(&ring_) == 1) enter_flags_ |= IORING_ENTER_REGISTERED_RING;
  return {};
}

UringRing::~UringRing() {
  if (open_) io_uring_queue_exit(&ring_);
}

bool UringRing::on_its_thread() const {
  return ::gettid() == thread_;
}

void UringRing::make_room() {
  for (int round = 0; round < kRoundsMax; ++round) {
    enter();
    if (room() > 0) return;
    ::sched_yield();
  }
  TCPMUX_UNREACHABLE("the kernel takes no operations: is it out of memory?");
}

int UringRing::enter_and_wait(std::int64_t timeout_ns) {
  if (timeout_ns == kNever_ns) return enter(1, nullptr);
  const __kernel_timespec timeout{.tv_sec = timeout_ns / kNanosPerSecond,
                                  .tv_nsec = timeout_ns % kNanosPerSecond};
  return enter(1, &timeout);
}

int UringRing::enter(unsigned wait_for, const __kernel_timespec* timeout) {
  // The kernel reads the entries after it has read the tail, within this call.
  io_uring_smp_store_release(ring_.sq.ktail, ring_.sq.sqe_tail);
  io_uring_getevents_arg argument{};
  argument.sigmask_sz = _NSIG / 8;
  argument.ts = reinterpret_cast<std::uintptr_t>(timeout);
  const int entered =
      io_uring_enter2(static_cast<unsigned>(ring_.enter_ring_fd), unsubmitted(), wait_for,
                      enter_flags_, reinterpret_cast<sigset_t*>(&argument), sizeof argument);
  if (entered >= 0) return 0;
  TCPMUX_CHECK(entered == -EINTR || entered == -ETIME || entered == -EAGAIN || entered == -EBUSY,
               "io_uring_enter failed: wrong thread, or completions lost");
  return entered;
}

void UringRing::cancel_everything() {
  io_uring_sync_cancel_reg all{};
  all.flags = IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL;
  all.timeout = {.tv_sec = 1, .tv_nsec = 0};
  // Linux 6.0. Before, closing the ring cancels too, only later.
  io_uring_register_sync_cancel(&ring_, &all);
}

}  // namespace tcpmux
