#include "core/io/uring_backend.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>

#include "core/base/check.h"
#include "core/base/clock.h"

namespace tcpmux {
namespace {

constexpr std::uint32_t kSubmissionsMin = 16;
constexpr std::uint32_t kSubmissionsMax = 1024;  // more are submitted in several calls
constexpr std::uint32_t kCompletionsMin = 4096;
// The kernel's bound (IORING_MAX_CQ_ENTRIES), beyond which IORING_SETUP_CLAMP makes it 2^16.
constexpr std::uint32_t kCompletionsMax = 1U << 16;
constexpr std::uint32_t kDrainBytes = 64 * 1024;
constexpr std::size_t kAcceptsAtOnce = 64;

unsigned submissions_for(const IoLimits& limits) {
  return std::bit_ceil(std::clamp(limits.operations_max, kSubmissionsMin, kSubmissionsMax));
}

// Each operation may have a failed cancel beside it; accept fills what is left and then ends.
unsigned completions_for(const IoLimits& limits) {
  const std::uint32_t operations = std::min(limits.operations_max, kCompletionsMax / 2);
  return std::bit_ceil(std::max(2 * operations, kCompletionsMin));
}

}  // namespace

Result<std::unique_ptr<UringBackend>> UringBackend::create(const IoLimits& limits) {
  std::unique_ptr<UringBackend> backend(new UringBackend(limits));
  if (Status status = backend->ring_.open(submissions_for(limits), completions_for(limits));
      !status)
    return std::unexpected(std::move(status.error()));
  if (Status status = backend->acquire_reserve(); !status)
    return std::unexpected(std::move(status.error()));
  return backend;
}

// What waits is ended, so that the kernel no longer writes to buffers that go with us; and
// connections that nobody will hear of are closed.
UringBackend::~UringBackend() {
  Completion accepted;
  while (accepted_.take({&accepted, 1}) > 0)
    if (accepted.result >= 0) ::close(accepted.result);
  if (!ring_.is_open()) return;
  TCPMUX_CHECK(ring_.on_its_thread(), "an io_uring engine ends on the thread that made it");
  ring_.enter();
  ring_.cancel_everything();
  accepting_count_ = 0;
  wakeup_fd_ = -1;
  do {
    ring_.enter();
    const unsigned count = ring_.ready();
    for (unsigned i = 0; i < count; ++i) {
      const io_uring_cqe& entry = ring_.completion(i);
      if (kind_of(entry) == Kind::kAccept && entry.res >= 0) ::close(entry.res);
    }
    ring_.consume(count);
  } while (ring_.needs_enter() || ring_.ready() > 0);
}

io_uring_sqe* UringBackend::entry_for(std::uint64_t user_data) {
  io_uring_sqe* entry = ring_.next_entry();
  entry->user_data = user_data;  // io_uring_prep_* leave it alone
  return entry;
}

// --- accept ---

void UringBackend::accept(Tag tag, int fd) {
  TCPMUX_CHECK(accepting_count_ < kAcceptsMax, "more listeners than kAcceptsMax");
  restore_reserve();
  // An epoll engine may have left O_NONBLOCK on a listener that we inherited; there have been
  // kernels whose accept then returns EAGAIN instead of waiting (6.18 waits).
  set_nonblocking(fd, false);
  Accepting& accepting = accepting_[accepting_count_++];
  accepting = {.user_data = pack(tag, Kind::kAccept), .fd = fd};
  start_accept(accepting);
}

void UringBackend::start_accept(const Accepting& accepting) {
  io_uring_sqe* entry = entry_for(accepting.user_data);
  io_uring_prep_multishot_accept(entry, accepting.fd, nullptr, nullptr, SOCK_CLOEXEC);
}

UringBackend::Accepting* UringBackend::find_accepting(std::uint64_t user_data) {
  const auto end = accepting_.begin() + accepting_count_;
  const auto found = std::find_if(accepting_.begin(), end, [&](const Accepting& accepting) {
    return accepting.user_data == user_data;
  });
  return found == end ? nullptr : &*found;
}

// A multishot accept ends (no F_MORE) upon any error and when the completion queue is full; for us
// it ends where no further connection can be expected.
bool UringBackend::translate_accept(const io_uring_cqe& entry, Completion& completion) {
  completion.result = entry.res;
  completion.more = (entry.flags & IORING_CQE_F_MORE) != 0;
  if (completion.more) return true;
  Accepting* accepting = find_accepting(entry.user_data);
  TCPMUX_CHECK(accepting != nullptr, "an accept that nobody started has ended");
  const bool of_one_connection =
      entry.res < 0 && classify_accept_error(-entry.res) != AcceptError::kOfListener;
  if (!accepting->cancelled && (entry.res >= 0 || of_one_connection)) {
    start_accept(*accepting);
    completion.more = true;
    return entry.res >= 0;
  }
  if (of_one_connection) completion.result = -ECANCELED;
  *accepting = accepting_[--accepting_count_];
  return true;
}

// --- wakeups ---

void UringBackend::watch_wakeups(Tag tag, int fd) {
  TCPMUX_CHECK(wakeup_fd_ < 0, "an engine watches one eventfd");
  wakeup_tag_ = tag;
  wakeup_fd_ = fd;
  start_wakeup_poll();
}

// A poll, and the read by ourselves: a read by io_uring of an eventfd with O_NONBLOCK does not
// wait, it returns EAGAIN.
void UringBackend::start_wakeup_poll() {
  io_uring_sqe* entry = entry_for(pack({}, Kind::kWakeup));
  io_uring_prep_poll_multishot(entry, wakeup_fd_, POLLIN);
}

bool UringBackend::translate_wakeup(const io_uring_cqe& entry, Completion& completion) {
  if (entry.res < 0) {
    completion = {.tag = wakeup_tag_, .result = entry.res, .more = false};
    wakeup_fd_ = -1;
    return true;
  }
  if ((entry.flags & IORING_CQE_F_MORE) == 0) start_wakeup_poll();
  std::uint64_t count = 0;
  while (::read(wakeup_fd_, &count, sizeof count) != sizeof count) {
    // EAGAIN: the signal that this poll saw was read together with the one before.
    if (errno != EINTR) return false;
  }
  completion = {.tag = wakeup_tag_, .result = 1, .more = true};
  return true;
}

// --- connections and lanes ---

void UringBackend::peek(Tag tag, int fd, std::span<char> buffer) {
  io_uring_sqe* entry = entry_for(tag.pack());
  io_uring_prep_recv(entry, fd, buffer.data(), buffer.size(), MSG_PEEK);
}

void UringBackend::discard(Tag tag, int fd, std::size_t count) {
  io_uring_sqe* entry = entry_for(tag.pack());
  io_uring_prep_recv(entry, fd, nullptr, count, MSG_TRUNC | MSG_WAITALL);
}

// Two steps with one completion: the first is silent where it succeeds. They are not linked, which
// would cost 1 us of the reply's 7 (Linux 6.18): what a peek has seen is there, so the discard is
// done when its entry is submitted, and the send comes after it. Where it does fail (an error, or
// less than `count`, by MSG_WAITALL), its completion comes first, and becomes the reply's.
void UringBackend::reply(Tag tag, int fd, std::size_t count, std::span<const char> bytes,
                         bool hold_back) {
  if (count > 0) {
    io_uring_sqe* first = entry_for(pack(tag, Kind::kReplyDiscard));
    io_uring_prep_recv(first, fd, nullptr, count, MSG_TRUNC | MSG_WAITALL | MSG_DONTWAIT);
    first->flags |= IOSQE_CQE_SKIP_SUCCESS;
  }
  io_uring_sqe* entry = entry_for(tag.pack());
  io_uring_prep_send(entry, fd, bytes.data(), bytes.size(),
                     MSG_NOSIGNAL | (hold_back ? MSG_MORE : 0));
}

void UringBackend::drain(Tag tag, int fd) {
  io_uring_sqe* entry = entry_for(tag.pack());
  io_uring_prep_recv(entry, fd, nullptr, kDrainBytes, MSG_TRUNC);
}

void UringBackend::cancel(Tag tag, int) {
  if (Accepting* accepting = find_accepting(pack(tag, Kind::kAccept))) {
    accepting->cancelled = true;
    return start_cancel(accepting->user_data);
  }
  start_cancel(tag.pack());
}

void UringBackend::start_cancel(std::uint64_t user_data) {
  io_uring_sqe* entry = entry_for(pack({}, Kind::kCancel));
  io_uring_prep_cancel64(entry, user_data, 0);
  entry->flags |= IOSQE_CQE_SKIP_SUCCESS;
}

// --- the turn of the loop ---

std::size_t UringBackend::reap(std::span<Completion> completions) {
  if (ring_.needs_enter()) ring_.enter();
  return take(completions);
}

std::size_t UringBackend::wait(std::span<Completion> completions, std::int64_t deadline_ns) {
  for (;;) {
    if (accepted_.size() > 0 || ring_.ready() > 0) {
      if (const std::size_t count = reap(completions); count > 0) return count;
    }
    const std::int64_t left_ns =
        deadline_ns == kNever_ns ? kNever_ns : deadline_ns - monotonic_ns();
    if (left_ns <= 0) return reap(completions);
    const int error = ring_.enter_and_wait(left_ns);
    const std::size_t count = take(completions);
    // Without an error and without a completion for the caller, only our own ones have come.
    if (count > 0 || error != 0) return count;
  }
}

// The kernel accepts all who wait, at once. Handing them out a few at a time lets the rest of a
// connection's way follow while it is still in the cache.
std::size_t UringBackend::take(std::span<Completion> completions) {
  std::size_t given =
      accepted_.take(completions.first(std::min(completions.size(), kAcceptsAtOnce)));
  std::size_t accepts = given;
  const unsigned ready = ring_.ready();
  unsigned taken = 0;
  for (; taken < ready && given < completions.size(); ++taken) {
    const io_uring_cqe& entry = ring_.completion(taken);
    const bool accept = kind_of(entry) == Kind::kAccept;
    if (accept && accepted_.size() == accepted_.capacity()) break;
    if (!translate(entry, completions[given])) continue;
    if (!accept || (accepted_.size() == 0 && accepts++ < kAcceptsAtOnce)) {
      ++given;
    } else {
      accepted_.push(completions[given]);
    }
  }
  ring_.consume(taken);
  return given;
}

// False where nobody waits for it.
bool UringBackend::translate(const io_uring_cqe& entry, Completion& completion) {
  completion.tag = Tag::unpack(entry.user_data & ~kKindMask);
  if (kind_of(entry) != Kind::kPlain) [[unlikely]]
    return translate_special(entry, completion);
  completion.result = entry.res;
  completion.more = false;
  if (failed_discards_ > 0) [[unlikely]]
    find_failed_discard(completion);
  return true;
}

// A reply whose discard has failed has failed.
void UringBackend::find_failed_discard(Completion& completion) {
  for (std::uint32_t i = 0; i < failed_discards_; ++i) {
    if (failed_discard_[i].tag.pack() != completion.tag.pack()) continue;
    completion.result = failed_discard_[i].result;
    failed_discard_[i] = failed_discard_[--failed_discards_];
    return;
  }
}

bool UringBackend::translate_special(const io_uring_cqe& entry, Completion& completion) {
  switch (kind_of(entry)) {
    case Kind::kPlain:
      break;
    case Kind::kAccept:
      return translate_accept(entry, completion);
    case Kind::kWakeup:
      return translate_wakeup(entry, completion);
    case Kind::kReplyDiscard: {
      const bool short_of_bytes = entry.res >= 0 || entry.res == -EAGAIN;
      TCPMUX_CHECK(failed_discards_ < failed_discard_capacity_, "more discards than operations");
      failed_discard_[failed_discards_++] = {.tag = completion.tag,
                                             .result = short_of_bytes ? -ENODATA : entry.res};
      return false;
    }
    case Kind::kCancel:
      return false;
  }
  TCPMUX_UNREACHABLE("a completion of no known kind");
}

}  // namespace tcpmux
