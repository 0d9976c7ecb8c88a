#include "handoff/lib/backend_session.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <optional>
#include <utility>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "handoff/lib/fork_watch.h"

namespace tcpmux::handoff {
namespace {

// How long a mux may take to answer a Register once it has our connection.
constexpr std::int64_t kAnswerTimeout_ns = 10 * kNanosPerSecond;

bool passes(int refusal) {
  return refusal < static_cast<int>(RefuseCode::kMalformed) ||
         refusal > static_cast<int>(RefuseCode::kBadName);
}

// What a wait until then takes, rounded up: a wait that ends too early only goes round once more.
int milliseconds_until(std::int64_t until_ns) {
  if (until_ns == kNever_ns) return -1;
  const std::int64_t rest_ns = std::max<std::int64_t>(until_ns - monotonic_ns(), 0);
  return static_cast<int>(
      std::min<std::int64_t>((rest_ns + kNanosPerMilli - 1) / kNanosPerMilli, INT_MAX));
}

std::int64_t deadline_after(int timeout_ms) {
  if (timeout_ms < 0) return kNever_ns;
  return timeout_ms == 0 ? 0 : monotonic_ns() + timeout_ms * kNanosPerMilli;
}

}  // namespace

BackendSession::BackendSession(SessionOptions options)
    : options_(std::move(options)),
      reserve_(options_.batch),
      pause_(options_.retry_first_ms, options_.retry_last_ms,
             static_cast<std::uint32_t>(monotonic_ns() ^ ::getpid())),
      buffer_(std::make_unique<std::byte[]>(kMessageBytesMax)) {
  watch_forks();
  registered_in_ = seen_generation_ = fork_generation();
}

// ---- fork

// In a child: the parent's set of descriptors is not ours, and neither are the clients that the
// parent had received when it forked. The lanes are both's.
Status BackendSession::follow_fork() {
  if (fork_generation() == seen_generation_) return {};
  seen_generation_ = fork_generation();
  queue_.clear();
  loss_unreported_ = false;
  forget_events();
  reserve_.release();
  if (Status renewed = polls_.renew(); !renewed) return renewed;
  reserve_.fill();
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    if (lanes_[i].valid() && !polls_.add(lanes_[i].get(), i)) return fail_errno("epoll_ctl");
  }
  if (registry_.connected() && !welcomed_) leave_registry("forked while registering");
  if (registry_.connected() && !polls_.add(registry_.fd(), kRegistryTag))
    return fail_errno("epoll_ctl");
  if (!registry_.connected()) retry_later();
  return {};
}

// ---- registering

Status BackendSession::try_to_register() {
  refusal_ = 0;
  table_was_full_ = false;
  registered_in_ = fork_generation();
  Status opened = registry_.open(options_.registry, options_.registration);
  if (opened && !polls_.add(registry_.fd(), kRegistryTag)) opened = fail_errno("epoll_ctl");
  if (!opened) {
    error_ = opened.error().message;
    table_was_full_ = opened.error().code == EMFILE || opened.error().code == ENFILE;
    registry_.close();
    retry_later();
    return opened;
  }
  polls_.set_timer(monotonic_ns() + kAnswerTimeout_ns);
  return {};
}

void BackendSession::adopt(RegistryEvent& event) {
  if (welcomed_) return leave_registry("the mux sent a second Welcome");
  welcomed_ = true;
  mux_drains_ = false;
  welcomed_at_ns_ = monotonic_ns();
  ++counters_.registrations;
  error_.clear();
  polls_.set_timer(kNever_ns);
  lanes_.clear();
  for (std::size_t i = 0; i < event.welcome.lanes; ++i) {
    lanes_.push_back(std::move(event.lanes[i]));
    ++lanes_open_;
    if (!polls_.add(lanes_[i].get(), i)) return leave_registry("no memory to watch a lane");
  }
  reserve_ = DescriptorReserve(event.welcome.batch);
  reserve_.fill();
  if (drained_) registry_.say(MessageType::kDrain);
}

// Also what makes the descriptor readable, at once and for good, when it is all over.
void BackendSession::retry_later() {
  if (refused_finally_ || drained_) return polls_.set_timer(0);
  polls_.set_timer(monotonic_ns() + pause_.next_ns());
}

bool BackendSession::over() const {
  return !registry_.connected() && lanes_open_ == 0 && (refused_finally_ || drained_);
}

// ---- the outside

tcpmux_result BackendSession::open() {
  if (const Status opened = polls_.open(); !opened) {
    error_ = opened.error().message;
    const bool full = opened.error().code == EMFILE || opened.error().code == ENFILE;
    return full ? TCPMUX_NO_DESCRIPTORS : TCPMUX_ERROR;
  }
  reserve_.fill();
  if (try_to_register()) {
    const tcpmux_result waited = wait_for_welcome(deadline_after(options_.open_timeout_ms));
    if (waited != TCPMUX_OK) return waited;
  }
  return welcomed_ ? TCPMUX_OK : first_failure();
}

// TCPMUX_OK: there was an answer, or there will be none.
tcpmux_result BackendSession::wait_for_welcome(std::int64_t until_ns) {
  while (!welcomed_ && registry_.connected()) {
    const tcpmux_result waited = wait_for_events(until_ns);
    if (waited == TCPMUX_INTERRUPTED) continue;  // the deadline still bounds us
    if (waited == TCPMUX_EMPTY) {
      error_ = "the mux at " + options_.registry + " took the connection but does not answer";
      return options_.wait_for_mux ? TCPMUX_OK : TCPMUX_ABSENT;
    }
    if (waited != TCPMUX_OK) return waited;
    if (const tcpmux_result handled = handle_next_event(); handled != TCPMUX_OK) return handled;
  }
  return TCPMUX_OK;
}

tcpmux_result BackendSession::first_failure() const {
  if (refused_finally_) return TCPMUX_REFUSED;
  if (table_was_full_) return TCPMUX_NO_DESCRIPTORS;
  if (options_.wait_for_mux) return TCPMUX_OK;
  return refusal_ != 0 ? TCPMUX_REFUSED : TCPMUX_ABSENT;
}

tcpmux_result BackendSession::accept(int timeout_ms, int& socket, const tcpmux_facts*& facts) {
  if (const Status followed = follow_fork(); !followed) {
    error_ = followed.error().message;
    return TCPMUX_ERROR;
  }
  const std::int64_t until_ns = deadline_after(timeout_ms);
  for (;;) {
    if (!queue_.empty()) {
      socket = queue_.take(facts);
      return TCPMUX_OK;
    }
    if (std::exchange(loss_unreported_, false)) return TCPMUX_LOST;
    tcpmux_result result = TCPMUX_OK;
    if (next_event_ < event_count_) {
      result = handle_next_event();
    } else if (welcomed_ && !registry_.connected()) {
      result = clear_a_lane();
    } else if (over()) {
      return refused_finally_ ? TCPMUX_REFUSED : TCPMUX_ENDED;
    } else {
      if (!reserve_.full()) reserve_.fill();  // the last message may have taken its place
      result = wait_for_events(until_ns);
    }
    if (result != TCPMUX_OK) return result;
  }
}

int BackendSession::descriptor() {
  if (const Status followed = follow_fork(); !followed) error_ = followed.error().message;
  return polls_.descriptor();
}

void BackendSession::drain() {
  if (!follow_fork() || inherited() || drained_) return;
  drained_ = true;
  if (welcomed_ && registry_.connected()) return registry_.say(MessageType::kDrain);
  leave_registry({});
  retry_later();
}

void BackendSession::close() {
  if (fork_generation() == registered_in_) registry_.say(MessageType::kGoodbye);
  registry_.close();
}

tcpmux_state BackendSession::state() const {
  if (over()) return TCPMUX_STOPPED;
  if (!welcomed_ || !registry_.connected()) return TCPMUX_WAITING;
  return drained_ || mux_drains_ ? TCPMUX_DRAINING : TCPMUX_SERVING;
}

// ---- what comes

tcpmux_result BackendSession::wait_for_events(std::int64_t until_ns) {
  const int count = polls_.wait(events_, milliseconds_until(until_ns));
  forget_events();
  if (count > 0) {
    event_count_ = static_cast<std::size_t>(count);
    return TCPMUX_OK;
  }
  if (count == 0) return TCPMUX_EMPTY;
  if (errno == EINTR) return TCPMUX_INTERRUPTED;
  error_ = system_error("epoll_wait", errno).message;
  return TCPMUX_ERROR;
}

tcpmux_result BackendSession::handle_next_event() {
  const std::uint64_t tag = events_[next_event_++].data.u64;
  if (tag != PollSet::kTimer && tag != kRegistryTag)
    return handle_lane(static_cast<std::size_t>(tag));
  if (tag == PollSet::kTimer) {
    handle_timer();
  } else {
    handle_registry();
  }
  return TCPMUX_OK;
}

void BackendSession::handle_timer() {
  if (welcomed_ || over()) return;
  if (registry_.connected())
    return leave_registry("the mux at " + options_.registry + " does not answer");
  (void)try_to_register();  // a failure is in error_, and the next attempt is arranged
}

void BackendSession::handle_registry() {
  using Kind = RegistryEvent::Kind;
  RegistryEvent event = registry_.receive({buffer_.get(), kMessageBytesMax});
  switch (event.kind) {
    case Kind::kNothing:
      return;
    case Kind::kWelcome:
      return adopt(event);
    case Kind::kRefuse:
      return handle_refusal(event.refuse);
    case Kind::kDrain:
    case Kind::kGoodbye:
      mux_drains_ = true;
      error_ = event.kind == Kind::kDrain ? "the mux sends no more clients" : "the mux is leaving";
      if (!event.text.empty()) error_ += ": " + event.text;
      return;
    case Kind::kNoDescriptors:
      leave_registry(std::move(event.text));
      table_was_full_ = true;
      return;
    case Kind::kGone:
      return leave_registry("the mux at " + options_.registry + " has gone");
    case Kind::kMalformed:
      return leave_registry(std::move(event.text));
  }
}

void BackendSession::handle_refusal(const Refuse& refuse) {
  refusal_ = refuse.code;
  refused_finally_ = !passes(refuse.code);
  leave_registry("the mux refuses: " + refuse.reason + " (code " + std::to_string(refuse.code) +
                 ")");
}

tcpmux_result BackendSession::handle_lane(std::size_t index) {
  if (index >= lanes_.size() || !lanes_[index].valid()) return TCPMUX_OK;
  if (!reserve_.lend()) {
    forget_events();
    error_ = "no room in the descriptor table: close some, or raise RLIMIT_NOFILE";
    return TCPMUX_NO_DESCRIPTORS;
  }
  const std::span<std::byte> buffer(buffer_.get(), kMessageBytesMax);
  const Received received =
      handoff::receive(lanes_[index].get(), buffer, std::span<OwnFd>(places_), MSG_DONTWAIT);
  reserve_.give_back();
  if (received.kind != Received::Kind::kMessage) return handle_no_message(index, received);
  handle_message(buffer.first(received.bytes), received);
  for (std::size_t i = 0; i < received.descriptors; ++i)
    places_[i].reset();
  return TCPMUX_OK;
}

tcpmux_result BackendSession::handle_no_message(std::size_t index, const Received& received) {
  // A process that shares the lane was faster; or all of it was taken, when the mux has gone.
  if (received.kind == Received::Kind::kEmpty && registry_.connected()) return TCPMUX_OK;
  if (received.kind == Received::Kind::kError &&
      (received.error == ENOMEM || received.error == ENOBUFS)) {
    error_ = system_error("receive from a lane", received.error).message;
    return TCPMUX_ERROR;
  }
  drop_lane(index);
  return TCPMUX_OK;
}

// The mux has gone; what it left in the lanes is still ours to serve.
tcpmux_result BackendSession::clear_a_lane() {
  TCPMUX_CHECK(lanes_open_ > 0, "welcomed, and no lane left");
  while (!lanes_.back().valid())
    lanes_.pop_back();
  return handle_lane(lanes_.size() - 1);
}

void BackendSession::handle_message(std::span<const std::byte> message, const Received& received) {
  const std::optional<Header> header = decode_header(message);
  if (!header || header->version != kProtocolVersion || received.payload_truncated)
    return leave_registry("the mux sent what cannot be understood on a lane");
  if (header->type != static_cast<std::uint8_t>(MessageType::kHandoff)) return;
  const std::span<OwnFd> sockets = std::span(places_).first(received.descriptors);
  if (const Status filled = queue_.fill(message, sockets, received.descriptors_lost); !filled)
    return leave_registry("the mux sent what cannot be understood: " + filled.error().message);
  ++counters_.messages;
  counters_.sockets += received.descriptors;
  if (options_.nonblocking) queue_.make_nonblocking();
  const std::size_t lost = header->count - received.descriptors;
  if (lost == 0) return;
  counters_.clients_lost += lost;
  loss_unreported_ = true;
  error_ = std::to_string(lost) + " clients were lost: no room in the descriptor table";
}

// ---- ending

// The registration has ended. What waits in the lanes is still received before they are closed.
void BackendSession::leave_registry(std::string why) {
  if (!registry_.connected()) return;
  if (!why.empty()) error_ = std::move(why);
  polls_.remove(registry_.fd());
  registry_.close();
  forget_events();
  // A mux that takes us and at once drops us again is not to be asked every few milliseconds.
  if (welcomed_ && monotonic_ns() - welcomed_at_ns_ > pause_.longest_ns()) pause_.start_over();
  retry_later();
  if (lanes_open_ == 0) welcomed_ = false;
}

void BackendSession::drop_lane(std::size_t index) {
  if (!lanes_[index].valid()) return;
  polls_.remove(lanes_[index].get());
  lanes_[index].reset();
  if (--lanes_open_ > 0) return;
  leave_registry("the mux at " + options_.registry + " has gone");
  lanes_.clear();
  welcomed_ = false;
  mux_drains_ = false;
}

}  // namespace tcpmux::handoff
