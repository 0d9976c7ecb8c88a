#include "tools/load/uring_io.h"

#include <algorithm>

#include "core/base/clock.h"

namespace load {
namespace {

constexpr unsigned kSubmissions = 2048;
constexpr unsigned kCompletionsMin = 4096;
constexpr unsigned kCompletionsPerSlot = 3;

// Cancel and close: completes only where it failed, and then there is nothing to be done about it.
constexpr std::uint64_t kUnheard = UINT64_MAX;

constexpr std::uint64_t name_of(std::uint32_t slot, Operation operation) {
  return (std::uint64_t{slot} << 32) | static_cast<std::uint64_t>(operation);
}

}  // namespace

tcpmux::Result<std::unique_ptr<UringIo>> UringIo::create(std::uint32_t slots) {
  std::unique_ptr<UringIo> io(new UringIo);
  const unsigned completions = std::max(kCompletionsMin, slots * kCompletionsPerSlot);
  if (const auto opened = io->ring_.open(kSubmissions, completions); !opened)
    return std::unexpected(opened.error());
  return io;
}

io_uring_sqe* UringIo::next(std::uint64_t user_data) {
  io_uring_sqe* const sqe = ring_.next_entry();
  sqe->user_data = user_data;  // io_uring_prep_* leave it alone
  return sqe;
}

void UringIo::connect(std::uint32_t slot, int fd, Target target) {
  io_uring_prep_connect(next(name_of(slot, Operation::kConnect)), fd, target.address, target.size);
}

// MSG_WAITALL: the kernel goes on until all is sent.
void UringIo::send(std::uint32_t slot, int fd, std::span<const char> bytes) {
  io_uring_prep_send(next(name_of(slot, Operation::kSend)), fd, bytes.data(), bytes.size(),
                     MSG_WAITALL | MSG_NOSIGNAL);
}

void UringIo::receive(std::uint32_t slot, int fd, std::span<char> into) {
  io_uring_prep_recv(next(name_of(slot, Operation::kReceive)), fd, into.data(), into.size(), 0);
}

void UringIo::cancel(std::uint32_t, int fd) {
  io_uring_sqe* const sqe = next(kUnheard);
  io_uring_prep_cancel_fd(sqe, fd, IORING_ASYNC_CANCEL_ALL);
  io_uring_sqe_set_flags(sqe, IOSQE_CQE_SKIP_SUCCESS);
}

void UringIo::close(std::uint32_t, int fd) {
  io_uring_sqe* const sqe = next(kUnheard);
  io_uring_prep_close(sqe, fd);
  io_uring_sqe_set_flags(sqe, IOSQE_CQE_SKIP_SUCCESS);
}

void UringIo::enter(std::int64_t until_ns) {
  if (ring_.ready() > 0) {
    if (ring_.needs_enter()) ring_.enter();
    return;
  }
  if (until_ns == tcpmux::kNever_ns) {
    ring_.enter_and_wait(tcpmux::kNever_ns);
  } else if (const std::int64_t left_ns = until_ns - tcpmux::monotonic_ns(); left_ns > 0) {
    ring_.enter_and_wait(left_ns);
  } else {
    ring_.enter();
  }
}

std::size_t UringIo::wait(std::span<Completion> completions, std::int64_t until_ns) {
  enter(until_ns);
  const unsigned ready = ring_.ready();
  std::size_t count = 0;
  unsigned seen = 0;
  for (; seen < ready && count < completions.size(); ++seen) {
    const io_uring_cqe& entry = ring_.completion(seen);
    if (entry.user_data == kUnheard) continue;
    const auto operation = static_cast<Operation>(entry.user_data & 0xFF);
    completions[count++] = {
        .slot = static_cast<std::uint32_t>(entry.user_data >> 32),
        .operation = operation,
        .result = operation == Operation::kReceive ? entry.res : std::min(entry.res, 0)};
  }
  ring_.consume(seen);
  return count;
}

}  // namespace load
