#include "core/io/epoll_backend.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "core/base/check.h"
#include "core/base/clock.h"

namespace tcpmux {
namespace {

// From one listener in one turn: what is accepted is to be served before the queue grows stale.
constexpr std::uint32_t kAcceptsPerTurn = 64;
// From all listeners in one turn, which starts with an empty queue: their places in it.
constexpr std::uint32_t kAcceptPlaces = 256;
// Wakeups, and the last completions of accepts.
constexpr std::uint32_t kOtherPlaces = 2 * kAcceptsMax + 8;
constexpr std::size_t kDrainBytes = 64 * 1024;

// Tries a call until no signal interrupts it. Returns its result or a negative errno.
template <class Call>
std::int32_t uninterrupted(Call call) {
  for (;;) {
    const ssize_t result = call();
    if (result >= 0) return static_cast<std::int32_t>(result);
    if (errno != EINTR) return -errno;
  }
}

std::int32_t discard_now(int fd, std::size_t count) {
  return uninterrupted([&] { return ::recv(fd, nullptr, count, MSG_TRUNC | MSG_DONTWAIT); });
}

int milliseconds_until(std::int64_t deadline_ns) {
  if (deadline_ns == kNever_ns) return -1;
  const std::int64_t left_ns = deadline_ns - monotonic_ns();
  if (left_ns <= 0) return 0;
  // Up, or else the last millisecond is spent in a spin.
  const std::int64_t left_ms = (left_ns - 1) / kNanosPerMilli + 1;
  return static_cast<int>(std::min<std::int64_t>(left_ms, INT32_MAX));
}

}  // namespace

Result<std::unique_ptr<EpollBackend>> EpollBackend::create(const IoLimits& limits) {
  OwnFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return fail_errno("epoll_create1");
  Result<LazyArray<Record>> records = LazyArray<Record>::create(limits.descriptors_max);
  if (!records) return std::unexpected(std::move(records.error()));
  std::unique_ptr<EpollBackend> backend(
      new EpollBackend(limits, std::move(epoll), std::move(*records)));
  if (Status status = backend->acquire_reserve(); !status)
    return std::unexpected(std::move(status.error()));
  return backend;
}

EpollBackend::EpollBackend(const IoLimits& limits, OwnFd epoll, LazyArray<Record> records)
    : epoll_(std::move(epoll)),
      records_(std::move(records)),
      queue_(limits.operations_max + kAcceptPlaces + kOtherPlaces) {}

// Connections that nobody will hear of are closed.
EpollBackend::~EpollBackend() {
  Completion completion;
  while (queue_.take({&completion, 1}) > 0)
    if (completion.tag.operation == Operation::kAccept && completion.result >= 0)
      ::close(completion.result);
}

EpollBackend::Record& EpollBackend::record_of(int fd) {
  TCPMUX_CHECK(has_record(fd), "a descriptor beyond the limit");
  return records_[static_cast<std::size_t>(fd)];
}

// --- one attempt ---

EpollBackend::Attempt EpollBackend::attempt(Pending& pending, int fd) {
  switch (pending.kind) {
    case Kind::kPeek:
      return attempt_peek(pending, fd);
    case Kind::kDiscard:
      return attempt_discard(pending, fd);
    case Kind::kReply:
      return attempt_reply(pending, fd);
    case Kind::kDrain:
      return attempt_drain(fd);
    case Kind::kNone:
    case Kind::kAccept:
    case Kind::kWakeup:
      break;
  }
  TCPMUX_UNREACHABLE("no operation to be tried");
}

EpollBackend::Attempt EpollBackend::attempt_peek(const Pending& pending, int fd) {
  const std::int32_t result = uninterrupted(
      [&] { return ::recv(fd, pending.into, pending.size, MSG_PEEK | MSG_DONTWAIT); });
  return {.result = result, .wait_for = result == -EAGAIN ? EPOLLIN : 0U};
}

// As with MSG_WAITALL: less than all only at the FIN or upon an error.
EpollBackend::Attempt EpollBackend::attempt_discard(Pending& pending, int fd) {
  while (pending.to_take > 0) {
    const std::int32_t result = discard_now(fd, pending.to_take);
    if (result == -EAGAIN) return {.wait_for = EPOLLIN};
    if (result <= 0) {
      if (pending.taken == 0) return {.result = result};
      break;
    }
    pending.to_take -= static_cast<std::uint32_t>(result);
    pending.taken += static_cast<std::uint32_t>(result);
  }
  return {.result = static_cast<std::int32_t>(pending.taken)};
}

EpollBackend::Attempt EpollBackend::attempt_reply(Pending& pending, int fd) {
  if (pending.to_take > 0) {
    const Attempt discarded = attempt_discard(pending, fd);
    if (discarded.result < 0) return discarded;
    if (pending.to_take > 0) return {.result = -ENODATA};
  }
  const int flags = MSG_DONTWAIT | MSG_NOSIGNAL | (pending.hold_back ? MSG_MORE : 0);
  const std::int32_t result =
      uninterrupted([&] { return ::send(fd, pending.bytes, pending.size, flags); });
  return {.result = result, .wait_for = result == -EAGAIN ? EPOLLOUT : 0U};
}

EpollBackend::Attempt EpollBackend::attempt_drain(int fd) {
  const std::int32_t result = discard_now(fd, kDrainBytes);
  return {.result = result, .wait_for = result == -EAGAIN ? EPOLLIN : 0U};
}

// --- starting ---

void EpollBackend::start(Pending pending, int fd) {
  const Attempt first = attempt(pending, fd);
  if (first.wait_for == 0) return queue_.push({.tag = pending.tag, .result = first.result});
  Record& record = record_of(fd);
  TCPMUX_CHECK(record.parked.kind == Kind::kNone, "two operations wait on one descriptor");
  // ENOSPC, ENOMEM: the limit of epoll watches (fs.epoll.max_user_watches).
  if (const int error = watch(fd, record, first.wait_for | EPOLLET); error != 0)
    return queue_.push({.tag = pending.tag, .result = -error});
  record.parked = pending;
}

void EpollBackend::peek(Tag tag, int fd, std::span<char> buffer) {
  start({.tag = tag,
         .kind = Kind::kPeek,
         .size = static_cast<std::uint32_t>(buffer.size()),
         .into = buffer.data()},
        fd);
}

void EpollBackend::discard(Tag tag, int fd, std::size_t count) {
  start({.tag = tag, .kind = Kind::kDiscard, .to_take = static_cast<std::uint32_t>(count)}, fd);
}

void EpollBackend::reply(Tag tag, int fd, std::size_t count, std::span<const char> bytes,
                         bool hold_back) {
  start({.tag = tag,
         .kind = Kind::kReply,
         .hold_back = hold_back,
         .size = static_cast<std::uint32_t>(bytes.size()),
         .to_take = static_cast<std::uint32_t>(count),
         .bytes = bytes.data()},
        fd);
}

void EpollBackend::drain(Tag tag, int fd) {
  start({.tag = tag, .kind = Kind::kDrain}, fd);
}

void EpollBackend::accept(Tag tag, int fd) {
  restore_reserve();
  set_nonblocking(fd, true);
  // Level-triggered: what one turn leaves in the listener is reported in the next.
  start_lasting(Kind::kAccept, tag, fd, EPOLLIN | EPOLLEXCLUSIVE);
}

void EpollBackend::watch_wakeups(Tag tag, int fd) {
  start_lasting(Kind::kWakeup, tag, fd, EPOLLIN);
}

void EpollBackend::start_lasting(Kind kind, Tag tag, int fd, std::uint32_t events) {
  Record& record = record_of(fd);
  TCPMUX_CHECK(record.parked.kind == Kind::kNone, "two operations wait on one descriptor");
  if (const int error = watch(fd, record, events); error != 0)
    return queue_.push({.tag = tag, .result = -error});
  record.parked = {.tag = tag, .kind = kind};
}

// --- ending ---

void EpollBackend::finish(Record& record, std::int32_t result) {
  queue_.push({.tag = record.parked.tag, .result = result});
  record.parked.kind = Kind::kNone;
}

void EpollBackend::end_accept(int fd, Record& record, std::int32_t result) {
  unwatch(fd, record);
  finish(record, result);
}

void EpollBackend::cancel(Tag tag, int fd) {
  Record& record = record_of(fd);
  if (record.parked.kind == Kind::kNone || record.parked.tag.pack() != tag.pack()) return;
  if (record.parked.kind == Kind::kAccept) return end_accept(fd, record, -ECANCELED);
  finish(record, -ECANCELED);
}

void EpollBackend::let_go(int fd) {
  Record& record = record_of(fd);
  TCPMUX_CHECK(record.parked.kind == Kind::kNone, "let go of a descriptor that is waited for");
  if (record.watched != 0) unwatch(fd, record);
}

// epoll holds the open file description, not the descriptor: a socket that was passed to another
// process would go on reporting its events to us after our close.
void EpollBackend::close(int fd) {
  let_go(fd);
  ImmediateCalls::close(fd);
}

// --- watching ---

// 0 or an errno.
int EpollBackend::watch(int fd, Record& record, std::uint32_t events) {
  if ((record.watched & events) == events) return 0;
  epoll_event event{};
  event.events = record.watched | events;
  event.data.fd = fd;
  const int operation = record.watched == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
  if (::epoll_ctl(epoll_.get(), operation, fd, &event) < 0) return errno;
  record.watched = event.events;
  return 0;
}

void EpollBackend::unwatch(int fd, Record& record) {
  TCPMUX_CHECK(::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr) == 0,
               "a descriptor that was watched is not: was it closed elsewhere?");
  record.watched = 0;
}

// --- the turn of the loop ---

// Right after a poll that has seen all that was ready, another one is a system call for nothing.
std::size_t EpollBackend::reap(std::span<Completion> completions) {
  if (queue_.size() == 0 && !std::exchange(seen_all_, false)) poll(0);
  return queue_.take(completions);
}

std::size_t EpollBackend::wait(std::span<Completion> completions, std::int64_t deadline_ns) {
  // Events that finish nothing (a socket that has more to read than we want) end no wait.
  while (queue_.size() == 0)
    if (poll(milliseconds_until(deadline_ns)) == 0) break;
  return queue_.take(completions);
}

// The number of events; 0 where the time has come, or a signal.
int EpollBackend::poll(int timeout_ms) {
  accepts_left_ = kAcceptPlaces;
  const int count =
      ::epoll_wait(epoll_.get(), events_.data(), static_cast<int>(events_.size()), timeout_ms);
  if (count < 0) {
    TCPMUX_CHECK(errno == EINTR, "epoll_wait fails only by a signal");
    return 0;
  }
  seen_all_ = static_cast<std::size_t>(count) < events_.size();
  for (int i = 0; i < count; ++i)
    handle(events_[static_cast<std::size_t>(i)]);
  return count;
}

void EpollBackend::handle(const epoll_event& event) {
  const int fd = event.data.fd;
  Record& record = record_of(fd);
  switch (record.parked.kind) {
    case Kind::kNone:
      return;
    case Kind::kAccept:
      return accept_waiting(fd, record);
    case Kind::kWakeup:
      return read_wakeup(fd, record);
    case Kind::kPeek:
    case Kind::kDiscard:
    case Kind::kReply:
    case Kind::kDrain:
      return try_again(fd, record);
  }
}

void EpollBackend::try_again(int fd, Record& record) {
  const Attempt next = attempt(record.parked, fd);
  if (next.wait_for == 0) return finish(record, next.result);
  if (const int error = watch(fd, record, next.wait_for | EPOLLET); error != 0)
    finish(record, -error);
}

void EpollBackend::accept_waiting(int fd, Record& record) {
  for (std::uint32_t i = 0; i < kAcceptsPerTurn && accepts_left_ > 0; ++i) {
    const int accepted = ::accept4(fd, nullptr, nullptr, SOCK_CLOEXEC);
    if (accepted < 0) {
      const int error = errno;
      switch (classify_accept_error(error)) {
        case AcceptError::kNobodyWaits:
          return;
        case AcceptError::kOfOneConnection:
          continue;
        case AcceptError::kOfListener:
          return end_accept(fd, record, -error);
      }
    }
    if (!has_record(accepted)) {  // RLIMIT_NOFILE was raised while we run
      ::close(accepted);
      return end_accept(fd, record, -EMFILE);
    }
    TCPMUX_CHECK(record_of(accepted).watched == 0, "a watched descriptor was closed elsewhere");
    --accepts_left_;
    queue_.push({.tag = record.parked.tag, .result = accepted, .more = true});
  }
  seen_all_ = false;  // more may wait
}

void EpollBackend::read_wakeup(int fd, const Record& record) {
  std::uint64_t count = 0;
  if (::read(fd, &count, sizeof count) == sizeof count)
    queue_.push({.tag = record.parked.tag, .result = 1, .more = true});
}

}  // namespace tcpmux
