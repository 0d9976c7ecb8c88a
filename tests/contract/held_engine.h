// An engine that a test can hold: its thread comes to rest before it waits, the test prepares what
// it is to find, and lets go. So a turn of the shard sees several things at once.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <span>

#include "core/io/backend.h"
#include "tests/contract/forwarding_engine.h"

namespace tcpmux::contract_test {

class Gate {
 public:
  // Returns when so many threads are held. They must come by: wake them.
  template <class Wake>
  void hold(std::size_t threads, Wake wake) {
    std::unique_lock lock(mutex_);
    closed_ = true;
    wake();
    changed_.wait(lock, [&] { return held_ == threads; });
  }
  void release() {
    const std::lock_guard lock(mutex_);
    closed_ = false;
    held_ = 0;
    ++releases_;
    changed_.notify_all();
  }
  void pass() {
    std::unique_lock lock(mutex_);
    if (!closed_) return;
    ++held_;
    changed_.notify_all();
    // Not for an open gate: it may be closed again before this thread has looked.
    changed_.wait(lock, [this, before = releases_] { return releases_ != before; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool closed_ = false;
  std::size_t held_ = 0;
  std::size_t releases_ = 0;
};

template <IoBackend Io>
class Held : public Forwarding<Held<Io>, Io> {
 public:
  inline static Gate gate;

  using Forwarding<Held, Io>::Forwarding;

  std::size_t wait(std::span<Completion> completions, std::int64_t deadline_ns) {
    gate.pass();
    return this->io_->wait(completions, deadline_ns);
  }
};

}  // namespace tcpmux::contract_test
