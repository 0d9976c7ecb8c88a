#include "tools/load/epoll_io.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "core/base/check.h"
#include "core/base/clock.h"

namespace load {
namespace {

constexpr std::uint32_t kWatched = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
constexpr std::size_t kCompletionsPerSlot = 3;

int error_of(int fd) {
  int error = 0;
  socklen_t size = sizeof error;
  TCPMUX_CHECK(::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0,
               "every socket tells its error");
  return error;
}

}  // namespace

tcpmux::Result<std::unique_ptr<EpollIo>> EpollIo::create(std::uint32_t slots) {
  tcpmux::OwnFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return tcpmux::fail_errno("epoll_create1");
  return std::unique_ptr<EpollIo>(new EpollIo(slots, std::move(epoll)));
}

EpollIo::EpollIo(std::uint32_t slots, tcpmux::OwnFd epoll)
    : epoll_(std::move(epoll)), lines_(slots), queue_(slots * kCompletionsPerSlot) {}

// --- starting ---

void EpollIo::connect(std::uint32_t slot, int fd, Target target) {
  lines_[slot] = {};
  lines_[slot].fd = fd;
  lines_[slot].connecting = true;
  if (::connect(fd, target.address, target.size) == 0) return end_connecting(slot, 0);
  if (errno != EINPROGRESS) return end_connecting(slot, errno);
  watch(slot);
}

void EpollIo::send(std::uint32_t slot, int, std::span<const char> bytes) {
  lines_[slot].to_send = bytes;
  lines_[slot].sending = true;
  try_send(slot);
}

void EpollIo::receive(std::uint32_t slot, int, std::span<char> into) {
  lines_[slot].into = into;
  lines_[slot].receiving = true;
  watch(slot);
  if (lines_[slot].readable) try_receive(slot);
}

void EpollIo::cancel(std::uint32_t slot, int) {
  if (lines_[slot].connecting) end_connecting(slot, ECANCELED);
  if (lines_[slot].sending) end_sending(slot, ECANCELED);
  if (lines_[slot].receiving) end_receiving(slot, -ECANCELED);
}

// The last copy of the descriptor: closing it ends the watching too.
void EpollIo::close(std::uint32_t slot, int fd) {
  ::close(fd);
  lines_[slot] = {};
}

// --- going on ---

void EpollIo::watch(std::uint32_t slot) {
  Line& line = lines_[slot];
  if (line.watched) return;
  epoll_event event{.events = kWatched, .data = {.u32 = slot}};
  TCPMUX_CHECK(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, line.fd, &event) == 0,
               "a socket can be watched: is fs.epoll.max_user_watches too low?");
  line.watched = true;
}

void EpollIo::try_send(std::uint32_t slot) {
  Line& line = lines_[slot];
  while (!line.to_send.empty()) {
    const ssize_t sent =
        ::send(line.fd, line.to_send.data(), line.to_send.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EAGAIN) return watch(slot);
    const int error = sent < 0 ? errno : 0;
    // Over loopback the connection is there when connect() returns; the sending is what shows it.
    if (line.connecting) end_connecting(slot, error);
    if (error != 0) return end_sending(slot, error);
    line.to_send = line.to_send.subspan(static_cast<std::size_t>(sent));
  }
  end_sending(slot, 0);
}

void EpollIo::try_receive(std::uint32_t slot) {
  Line& line = lines_[slot];
  const ssize_t count = ::recv(line.fd, line.into.data(), line.into.size(), MSG_DONTWAIT);
  if (count < 0 && errno == EAGAIN) {
    line.readable = false;
    return;
  }
  // Fewer than there was room for: what comes next will be reported.
  if (count > 0 && static_cast<std::size_t>(count) < line.into.size() && !line.ended)
    line.readable = false;
  end_receiving(slot, static_cast<std::int32_t>(count < 0 ? -errno : count));
}

void EpollIo::handle(const epoll_event& event) {
  const std::uint32_t slot = event.data.u32;
  Line& line = lines_[slot];
  TCPMUX_CHECK(line.fd >= 0, "a closed socket is not reported");
  if ((event.events & (EPOLLIN | EPOLLRDHUP | EPOLLERR | EPOLLHUP)) != 0) line.readable = true;
  if ((event.events & (EPOLLRDHUP | EPOLLERR | EPOLLHUP)) != 0) line.ended = true;
  if (line.connecting && (event.events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0)
    end_connecting(slot, error_of(line.fd));
  if (line.sending) try_send(slot);
  if (line.receiving && line.readable) try_receive(slot);
}

// --- completing ---

void EpollIo::end_connecting(std::uint32_t slot, int error) {
  lines_[slot].connecting = false;
  complete(slot, Operation::kConnect, -error);
}

void EpollIo::end_sending(std::uint32_t slot, int error) {
  lines_[slot].sending = false;
  complete(slot, Operation::kSend, -error);
}

void EpollIo::end_receiving(std::uint32_t slot, std::int32_t result) {
  lines_[slot].receiving = false;
  complete(slot, Operation::kReceive, result);
}

void EpollIo::complete(std::uint32_t slot, Operation operation, std::int32_t result) {
  TCPMUX_CHECK(queue_size_ < queue_.size(), "a slot has three operations in flight at the most");
  queue_[(queue_first_ + queue_size_++) % queue_.size()] = {
      .slot = slot, .operation = operation, .result = result};
}

// --- waiting ---

// To the nanosecond by epoll_pwait2 (5.11); where a sandbox does not know it, in milliseconds.
int EpollIo::poll(std::int64_t timeout_ns) {
  const int room = static_cast<int>(events_.size());
  int count = -1;
  if (exact_timeouts_) {
    const timespec timeout{.tv_sec = timeout_ns / tcpmux::kNanosPerSecond,
                           .tv_nsec = timeout_ns % tcpmux::kNanosPerSecond};
    count = ::epoll_pwait2(epoll_.get(), events_.data(), room, &timeout, nullptr);
    exact_timeouts_ = count >= 0 || errno == EINTR;
  }
  if (!exact_timeouts_) {
    const std::int64_t timeout_ms =
        (timeout_ns + tcpmux::kNanosPerMilli - 1) / tcpmux::kNanosPerMilli;
    count = ::epoll_wait(epoll_.get(), events_.data(), room, static_cast<int>(timeout_ms));
  }
  TCPMUX_CHECK(count >= 0 || errno == EINTR, "epoll fails only by a signal");
  return std::max(count, 0);
}

std::size_t EpollIo::wait(std::span<Completion> completions, std::int64_t until_ns) {
  if (queue_size_ < completions.size()) {
    const std::int64_t left_ns = until_ns - tcpmux::monotonic_ns();
    const int count =
        poll(queue_size_ > 0 ? 0 : std::clamp(left_ns, std::int64_t{0}, tcpmux::kNanosPerSecond));
    for (int i = 0; i < count; ++i)
      handle(events_[static_cast<std::size_t>(i)]);
  }
  const std::size_t count = std::min(queue_size_, completions.size());
  for (std::size_t i = 0; i < count; ++i) {
    completions[i] = queue_[queue_first_];
    queue_first_ = (queue_first_ + 1) % queue_.size();
  }
  queue_size_ -= count;
  return count;
}

}  // namespace load
