// An engine that a test can hold: its thread comes to rest before it waits, the test prepares what
// it is to find, and lets go. So a turn of the shard sees several things at once.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <span>
#include <utility>

#include "core/io/backend.h"

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
class Held {
 public:
  inline static Gate gate;

  static Result<std::unique_ptr<Held>> create(const IoLimits& limits) {
    Result<std::unique_ptr<Io>> made = Io::create(limits);
    if (!made) return std::unexpected(made.error());
    return std::make_unique<Held>(*std::move(made));
  }
  explicit Held(std::unique_ptr<Io> io) : io_(std::move(io)) {}

  std::size_t wait(std::span<Completion> completions, std::int64_t deadline_ns) {
    gate.pass();
    return io_->wait(completions, deadline_ns);
  }

  void accept(Tag tag, int fd) { io_->accept(tag, fd); }
  void watch_wakeups(Tag tag, int fd) { io_->watch_wakeups(tag, fd); }
  void peek(Tag tag, int fd, std::span<char> buffer) { io_->peek(tag, fd, buffer); }
  void discard(Tag tag, int fd, std::size_t count) { io_->discard(tag, fd, count); }
  void reply(Tag tag, int fd, std::size_t count, std::span<const char> bytes, bool hold_back) {
    io_->reply(tag, fd, count, bytes, hold_back);
  }
  void drain(Tag tag, int fd) { io_->drain(tag, fd); }
  void cancel(Tag tag, int fd) { io_->cancel(tag, fd); }
  void let_go(int fd) { io_->let_go(fd); }
  void close(int fd) { io_->close(fd); }
  void shutdown_write(int fd) { io_->shutdown_write(fd); }
  Endpoints endpoints(int fd) { return io_->endpoints(fd); }
  std::uint32_t queued_bytes(int fd) { return io_->queued_bytes(fd); }
  std::int64_t send_now(int fd, const msghdr* message) { return io_->send_now(fd, message); }
  std::int64_t receive_now(int fd, msghdr* message) { return io_->receive_now(fd, message); }
  bool has_room_for(std::size_t count) { return io_->has_room_for(count); }
  int accept_now(int fd) { return io_->accept_now(fd); }
  void dismiss(int fd, std::span<const char> bytes) { io_->dismiss(fd, bytes); }
  Shed shed(int fd, std::span<const char> bytes) { return io_->shed(fd, bytes); }
  std::size_t reap(std::span<Completion> completions) { return io_->reap(completions); }

 private:
  std::unique_ptr<Io> io_;
};

}  // namespace tcpmux::contract_test
