// A bounded queue of messages to one thread, from any thread. The reader waits for `wakeup_fd`
// (an eventfd) to become readable with whatever engine it has. Everything is sized when the
// mailbox is made; sending and receiving allocate nothing.
#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include "core/base/check.h"
#include "core/base/fd.h"

namespace tcpmux {

// A mutex, not a lock-free ring: messages between threads are rare (registrations, passed
// connections), and a message may be refused, never lost.
template <class Message>
class Mailbox {
 public:
  explicit Mailbox(std::size_t capacity)
      : wakeup_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
        messages_(std::make_unique<Message[]>(capacity)),
        capacity_(capacity) {}

  // False where no descriptor could be had; then it is of no use.
  bool is_open() const { return wakeup_.valid(); }

  // False when it is full; `message` is then untouched and still the caller's.
  [[nodiscard]] bool send(Message&& message) {
    bool was_empty = false;
    {
      const std::lock_guard lock(mutex_);
      if (count_ == capacity_) return false;
      was_empty = count_ == 0;
      messages_[(first_ + count_) % capacity_] = std::move(message);
      ++count_;
    }
    if (was_empty) wake();
    return true;
  }

  // False when it is empty.
  [[nodiscard]] bool receive(Message& message) {
    const std::lock_guard lock(mutex_);
    if (count_ == 0) return false;
    message = std::move(messages_[first_]);
    first_ = (first_ + 1) % capacity_;
    --count_;
    return true;
  }

  // Makes wakeup_fd readable without a message.
  void wake() {
    const std::uint64_t one = 1;
    while (::write(wakeup_.get(), &one, sizeof one) < 0) {
      // EAGAIN: the counter is at its maximum, so it is readable, which is all that we want.
      if (errno == EAGAIN) return;
      TCPMUX_CHECK(errno == EINTR, "an eventfd takes eight bytes");
    }
  }
  int wakeup_fd() const { return wakeup_.get(); }

 private:
  OwnFd wakeup_;
  std::mutex mutex_;
  std::unique_ptr<Message[]> messages_;
  std::size_t capacity_;
  std::size_t first_ = 0;
  std::size_t count_ = 0;
};

}  // namespace tcpmux
