// An engine that is another one: what a test's engine is made of that changes some calls only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "core/io/backend.h"

namespace tcpmux::contract_test {

// `Derived` has a constructor that takes the engine, and hides the calls that it changes.
template <class Derived, IoBackend Io>
class Forwarding {
 public:
  static Result<std::unique_ptr<Derived>> create(const IoLimits& limits) {
    Result<std::unique_ptr<Io>> made = Io::create(limits);
    if (!made) return std::unexpected(made.error());
    return std::make_unique<Derived>(*std::move(made));
  }
  explicit Forwarding(std::unique_ptr<Io> io) : io_(std::move(io)) {}

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
  bool has_room_for(std::size_t descriptors) { return io_->has_room_for(descriptors); }
  int accept_now(int fd) { return io_->accept_now(fd); }
  void dismiss(int fd, std::span<const char> bytes) { io_->dismiss(fd, bytes); }
  Shed shed(int fd, std::span<const char> bytes) { return io_->shed(fd, bytes); }
  std::size_t reap(std::span<Completion> completions) { return io_->reap(completions); }
  std::size_t wait(std::span<Completion> completions, std::int64_t deadline_ns) {
    return io_->wait(completions, deadline_ns);
  }

 protected:
  std::unique_ptr<Io> io_;
};

}  // namespace tcpmux::contract_test
