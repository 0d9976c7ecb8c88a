// The bare loop on io_uring: multishot accept; peek, then discard and reply; a batch is handed over
// when it is full or when nothing else is ready. The kernel accepts all who wait at once; they are
// served 64 at a time, while they are in the cache.
//
// An operation's user_data is its kind and the connection (or the batch) that it is for. Steps
// whose success tells us nothing complete silently (IOSQE_CQE_SKIP_SUCCESS).
#include <liburing.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "bench/bare.h"

namespace bench {
namespace {

constexpr unsigned kSubmissions = 1024;
constexpr unsigned kCompletions = 16384;
constexpr unsigned kServedAtOnce = 64;

enum class Kind : std::uint32_t { kAccept, kPeek, kDiscard, kReply };

class Loop {
 public:
  Loop(int listener, int lane)
      : listener_(listener), lane_(lane), lines_(std::make_unique<Line[]>(kDescriptorsMax)) {
    io_uring_params parameters{};
    parameters.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                       IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE;
    parameters.cq_entries = kCompletions;
    if (const int error = io_uring_queue_init_params(kSubmissions, &ring_, &parameters);
        error < 0) {
      std::fprintf(stderr, "io_uring_setup: %s\n", std::strerror(-error));
      std::exit(kExitRefused);
    }
    io_uring_register_ring_fd(&ring_);
    accept();
  }

  [[noreturn]] void run() {
    for (;;) {
      serve_some();
      if (needs_enter()) check(io_uring_submit_and_get_events(&ring_));
      if (handle_all() || first_waiting_ != end_waiting_) continue;
      hand_over();
      check(io_uring_submit_and_wait(&ring_, 1));
    }
  }

 private:
  using Line = std::array<char, kLineBytes>;

  static void check(int result) {
    if (result < 0 && result != -EINTR) die("io_uring_enter", -result);
  }

  bool needs_enter() const {
    return io_uring_sq_ready(&ring_) > 0 || io_uring_cq_has_overflow(&ring_) ||
           (IO_URING_READ_ONCE(*ring_.sq.kflags) & IORING_SQ_TASKRUN) != 0;
  }

  io_uring_sqe* entry(Kind kind, std::uint32_t number) {
    io_uring_sqe* made = io_uring_get_sqe(&ring_);
    while (made == nullptr) {
      check(io_uring_submit(&ring_));
      made = io_uring_get_sqe(&ring_);
    }
    made->user_data = (std::uint64_t{number} << 32) | static_cast<std::uint32_t>(kind);
    return made;
  }

  // False when there was nothing to do.
  bool handle_all() {
    unsigned head = 0;
    unsigned count = 0;
    io_uring_cqe* completion = nullptr;
    io_uring_for_each_cqe(&ring_, head, completion) {
      handle(*completion);
      ++count;
    }
    io_uring_cq_advance(&ring_, count);
    return count > 0;
  }

  void handle(const io_uring_cqe& completion) {
    const auto number = static_cast<std::uint32_t>(completion.user_data >> 32);
    switch (static_cast<Kind>(completion.user_data & UINT32_MAX)) {
      case Kind::kAccept:
        if (completion.res >= 0) waiting_[end_waiting_++ % kDescriptorsMax] = completion.res;
        if ((completion.flags & IORING_CQE_F_MORE) == 0) accept();
        return;
      case Kind::kPeek:
        return reply(static_cast<int>(number), completion.res);
      case Kind::kReply:
        return collect(static_cast<int>(number));
      case Kind::kDiscard:
        return;  // failed, and the reply will
    }
  }

  void accept() {
    io_uring_prep_multishot_accept(entry(Kind::kAccept, 0), listener_, nullptr, nullptr,
                                   SOCK_CLOEXEC);
  }

  void serve_some() {
    for (unsigned i = 0; i < kServedAtOnce && first_waiting_ != end_waiting_; ++i)
      peek(waiting_[first_waiting_++ % kDescriptorsMax]);
  }

  void peek(int client) {
    Line& line = lines_[static_cast<std::size_t>(client)];
    io_uring_prep_recv(entry(Kind::kPeek, static_cast<std::uint32_t>(client)), client, line.data(),
                       line.size(), MSG_PEEK);
  }

  // What was peeked is there, so the discard is done when its turn to be submitted comes, and needs
  // no link to be before the reply.
  void reply(int client, int peeked) {
    const auto number = static_cast<std::uint32_t>(client);
    const Line& line = lines_[number];
    const std::size_t take =
        peeked > 0 ? line_bytes(line.data(), static_cast<std::size_t>(peeked)) : 0;
    if (take == 0) {
      ::close(client);
      return;
    }
    io_uring_sqe* const discard = entry(Kind::kDiscard, number);
    io_uring_prep_recv(discard, client, nullptr, take, MSG_TRUNC);
    discard->flags |= IOSQE_CQE_SKIP_SUCCESS;
    io_uring_prep_send(entry(Kind::kReply, number), client, kReply.data(), kReply.size(),
                       MSG_NOSIGNAL);
  }

  void collect(int client) {
    batch_.add(client);
    if (batch_.full()) hand_over();
  }

  // Not by the ring: entries of it would be handled at the end of the turn, and a chain of them one
  // with each entering of the kernel. By then the receiver has closed its copies.
  void hand_over() { batch_.hand_over(lane_); }

  int listener_;
  int lane_;
  io_uring ring_{};
  std::unique_ptr<Line[]> lines_;               // by descriptor
  std::array<int, kDescriptorsMax> waiting_{};  // accepted; a ring
  unsigned first_waiting_ = 0;                  // these two run on
  unsigned end_waiting_ = 0;
  Batch batch_;
};

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  const int listener = bench::open_listener(bench::port_from(argc, argv), 0);
  const bench::Receiver receiver = bench::start_receiver();
  bench::Loop loop(listener, receiver.lane);
  bench::announce(listener, receiver);
  loop.run();
}
