// A ring for the kernel fact tests, made as the server makes it: with the best flags that the
// kernel takes.
#pragma once

#include <liburing.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>

#include "core/base/check.h"
#include "tests/kernel/support.h"

namespace tcpmux::kernel_test {

struct Completion {
  std::uint64_t user_data = UINT64_MAX;
  int result = -ETIME;
  unsigned flags = 0;

  bool more() const { return (flags & IORING_CQE_F_MORE) != 0; }
};

class Ring {
 public:
  static constexpr unsigned kBestFlags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;

  Ring() {
    for (const unsigned flags : {kBestFlags, unsigned{IORING_SETUP_COOP_TASKRUN}, 0U})
      if (create({.flags = flags, .cq_entries = 0})) return;
  }
  struct Options {
    unsigned flags = 0;
    unsigned cq_entries = 0;  // 0: as the kernel likes
  };
  explicit Ring(const Options& options) { create(options); }
  ~Ring() {
    if (ready()) ::io_uring_queue_exit(&ring_);
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  bool ready() const { return error_ == 0; }
  int error() const { return error_; }
  std::string refusal() const {
    return std::string("this kernel makes no such ring: ") + std::strerror(error_);
  }
  io_uring& raw() { return ring_; }
  int fd() const { return ring_.ring_fd; }

  io_uring_sqe* sqe() {
    io_uring_sqe* sqe = ::io_uring_get_sqe(&ring_);
    TCPMUX_CHECK(sqe != nullptr, "a test submits before its queue is full");
    return sqe;
  }
  int submit() { return ::io_uring_submit(&ring_); }

  // The next completion; one with result -ETIME and the user data UINT64_MAX at the deadline.
  Completion wait() {
    io_uring_cqe* cqe = nullptr;
    __kernel_timespec limit{.tv_sec = kDeadline_ms / 1000, .tv_nsec = 0};
    if (::io_uring_wait_cqe_timeout(&ring_, &cqe, &limit) != 0 || cqe == nullptr) return {};
    return take(cqe);
  }
  // Lets the kernel finish what it has deferred, and takes a completion if there is one.
  bool take_ready(Completion& completion) {
    ::io_uring_get_events(&ring_);
    return take_visible(completion);
  }
  // Looks at the completion queue's memory only; never enters the kernel.
  bool take_visible(Completion& completion) {
    io_uring_cqe* cqe = nullptr;
    if (::io_uring_cq_ready(&ring_) == 0 || ::io_uring_peek_cqe(&ring_, &cqe) != 0) return false;
    completion = take(cqe);
    return true;
  }

  // Does one request that is prepared in `prepare(sqe)`, with nothing else in flight.
  template <class Prepare>
  Completion run(Prepare prepare) {
    prepare(sqe());
    return submit() == 1 ? wait() : Completion{};
  }
  // True exactly when no completion comes before that of a request made now.
  bool is_quiet() {
    constexpr std::uint64_t kMark = 0x6d61726b;
    const Completion mark = run([](io_uring_sqe* sqe) {
      ::io_uring_prep_nop(sqe);
      ::io_uring_sqe_set_data64(sqe, kMark);
    });
    return mark.user_data == kMark;
  }

 private:
  bool create(const Options& options) {
    io_uring_params params{};
    params.flags = options.flags;
    if (options.cq_entries > 0) {
      params.flags |= IORING_SETUP_CQSIZE;
      params.cq_entries = options.cq_entries;
    }
    const unsigned entries = options.cq_entries == 0 ? 64 : std::min(64U, options.cq_entries);
    error_ = -::io_uring_queue_init_params(entries, &ring_, &params);
    return error_ == 0;
  }
  Completion take(io_uring_cqe* cqe) {
    const Completion completion{
        .user_data = cqe->user_data, .result = cqe->res, .flags = cqe->flags};
    ::io_uring_cqe_seen(&ring_, cqe);
    return completion;
  }

  io_uring ring_{};
  int error_ = ENOSYS;
};

#define TCPMUX_SKIP_WITHOUT(ring) \
  if (!(ring).ready()) GTEST_SKIP() << (ring).refusal()

}  // namespace tcpmux::kernel_test
