// An engine one of whose answers is an error: of all completions of connections and listeners, and
// of all immediate calls that can fail, the N-th. Everything else is the real engine's.
//
// What really happened in the kernel is not undone, and the shard must not depend on it: bytes that
// were peeked at, taken or sent, were. An accepted connection that the shard is not told of waits
// in the engine as it would in the listener's backlog, and comes out when the shard accepts again,
// or sheds.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/base/clock.h"
#include "core/io/backend.h"
#include "tests/contract/forwarding_engine.h"
#include "tests/contract/support.h"

namespace tcpmux::contract_test {

// No call has more kinds of errors to choose among.
inline constexpr std::uint32_t kErrorsOfACallMax = 3;

// Told by the test's thread, asked by the shard's.
class Fault {
 public:
  // From here on the `nth` answer is an error, of those that it can have the one that `variant`
  // names.
  void arm(std::uint32_t nth, std::uint32_t variant) {
    what_ = nullptr;
    variant_ = variant;
    left_ = nth;
  }
  void disarm() { left_ = 0; }
  // nullptr: none was. Else which call.
  const char* what() const { return what_; }

  // The error that `what` is to have now; 0: none.
  int next(const char* what, std::span<const int> errors) {
    if (left_ == 0 || --left_ > 0) return 0;
    what_ = what;
    return errors[variant_ % errors.size()];
  }

 private:
  std::atomic<std::uint32_t> left_ = 0;
  std::atomic<std::uint32_t> variant_ = 0;
  std::atomic<const char*> what_ = nullptr;
};

template <IoBackend Io>
class Faulty : public Forwarding<Faulty<Io>, Io> {
 public:
  inline static Fault fault;

  using Forwarding<Faulty, Io>::Forwarding;
  ~Faulty() {
    for (const Completion& completion : held_)
      if (completion.tag.operation == Operation::kAccept && completion.result >= 0)
        io_->close(completion.result);
    for (const int fd : backlog_)
      io_->close(fd);
  }

  void accept(Tag tag, int fd) {
    listener_ = fd;
    for (const int waiting : std::exchange(backlog_, {}))
      held_.push_back({.tag = tag, .result = waiting, .more = true});
    io_->accept(tag, fd);
  }
  void shutdown_write(int fd) {
    static constexpr std::array kErrors = {ENOTCONN};
    if (fault.next("shutdown_write", kErrors) == 0) io_->shutdown_write(fd);
  }
  Endpoints endpoints(int fd) {
    static constexpr std::array kErrors = {ENOTCONN};
    return fault.next("endpoints", kErrors) == 0 ? io_->endpoints(fd) : Endpoints{};
  }
  std::int64_t send_now(int fd, const msghdr* message) {
    static constexpr std::array kErrors = {ENOBUFS, EPIPE, ETOOMANYREFS};
    const int error = fault.next("send_now", kErrors);
    return error == 0 ? io_->send_now(fd, message) : -error;
  }
  std::int64_t receive_now(int fd, msghdr* message) {
    static constexpr std::array kErrors = {ENOMEM};
    const int error = fault.next("receive_now", kErrors);
    return error == 0 ? io_->receive_now(fd, message) : -error;
  }
  void dismiss(int fd, std::span<const char> bytes) {
    static constexpr std::array kErrors = {ECONNRESET};
    if (fault.next("dismiss", kErrors) == 0) io_->dismiss(fd, bytes);
  }
  bool has_room_for(std::size_t descriptors) {
    static constexpr std::array kErrors = {EMFILE};
    return fault.next("has_room_for", kErrors) == 0 && io_->has_room_for(descriptors);
  }
  int accept_now(int fd) {
    static constexpr std::array kErrors = {EMFILE, ECONNABORTED};
    if (const int error = fault.next("accept_now", kErrors); error != 0) return -error;
    if (backlog_.empty()) return io_->accept_now(fd);
    const int accepted = backlog_.front();
    backlog_.erase(backlog_.begin());
    return accepted;
  }
  Shed shed(int fd, std::span<const char> bytes) {
    static constexpr std::array kErrors = {EMFILE};
    if (fault.next("shed", kErrors) != 0) return Shed::kNoDescriptor;
    if (backlog_.empty()) return io_->shed(fd, bytes);
    io_->dismiss(backlog_.front(), bytes);
    io_->close(backlog_.front());
    backlog_.erase(backlog_.begin());
    return Shed::kOne;
  }

  std::size_t reap(std::span<Completion> completions) {
    if (!held_.empty()) return give(completions);
    return spoil(completions.first(io_->reap(completions)));
  }
  std::size_t wait(std::span<Completion> completions, std::int64_t deadline_ns) {
    if (!held_.empty()) return give(completions);
    return spoil(completions.first(io_->wait(completions, deadline_ns)));
  }

 private:
  std::size_t give(std::span<Completion> completions) {
    const std::size_t count = std::min(completions.size(), held_.size());
    std::copy_n(held_.begin(), count, completions.begin());
    held_.erase(held_.begin(), held_.begin() + static_cast<std::ptrdiff_t>(count));
    return count;
  }

  std::size_t spoil(std::span<Completion> completions) {
    for (std::size_t i = 0; i < completions.size(); ++i) {
      const int error = error_for(completions[i]);
      if (error == 0) continue;
      if (completions[i].tag.operation == Operation::kAccept) {
        const Completion spoilt = completions[i];
        held_.insert(held_.end(), completions.begin() + static_cast<std::ptrdiff_t>(i) + 1,
                     completions.end());
        end_accepting(spoilt, error);
        return i > 0 ? i : give(completions);
      }
      completions[i].result = -error;
    }
    return completions.size();
  }

  int error_for(const Completion& completion) {
    static constexpr std::array kListenerErrors = {EMFILE, ENOMEM};
    static constexpr std::array kErrors = {ECONNRESET, ENOMEM};
    switch (completion.tag.operation) {
      case Operation::kAccept:
        // One that ends is what the shard asked for.
        return completion.more ? fault.next("accept", kListenerErrors) : 0;
      case Operation::kPeek:
        return fault.next("peek", kErrors);
      case Operation::kDiscard:
        return fault.next("discard", kErrors);
      case Operation::kReply:
        return fault.next("reply", kErrors);
      case Operation::kDrain:
        return fault.next("drain", kErrors);
      case Operation::kNone:
      case Operation::kWakeup:
        return 0;
    }
    return 0;
  }

  // The listener's error comes behind all that came before it, and instead of this connection and
  // those behind it.
  void end_accepting(const Completion& accepted, int error) {
    const auto is_accept = [&](const Completion& one) {
      return one.tag.pack() == accepted.tag.pack();
    };
    bool ended = false;
    const auto keep = [&](const Completion& one) {
      if (one.result >= 0) backlog_.push_back(one.result);
      ended |= !one.more;
    };
    keep(accepted);
    for (const Completion& one : held_)
      if (is_accept(one)) keep(one);
    std::erase_if(held_, is_accept);
    if (!ended) io_->cancel(accepted.tag, listener_);
    std::array<Completion, 16> more;
    while (!ended) {
      const std::size_t count = io_->wait(more, monotonic_ns() + kPatience_ns);
      for (const Completion& one : std::span(more).first(count)) {
        if (is_accept(one)) {
          keep(one);
        } else {
          held_.push_back(one);
        }
      }
    }
    held_.push_back({.tag = accepted.tag, .result = -error, .more = false});
  }

  using Forwarding<Faulty, Io>::io_;
  std::deque<Completion> held_;  // for the shard, before anything else
  std::vector<int> backlog_;
  int listener_ = -1;
};

}  // namespace tcpmux::contract_test
