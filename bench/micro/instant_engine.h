// An engine without a kernel (core/io/backend.h): clients come in waves, each has said its line
// already, and whatever is asked for has happened at once. When all have come it tells the shard to
// end. So the time of a shard that runs on it is that of the mux's own code.
//
// Descriptors are numbers alone; those that were closed are counted.
#pragma once

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include "core/base/check.h"
#include "core/io/backend.h"
#include "core/server/messages.h"

namespace bench {

struct Clients {
  std::uint32_t count = 0;
  std::uint32_t at_once = 0;  // 256 at most: what a shard takes from one wait
  std::string_view line;
};

class InstantEngine {
 public:
  InstantEngine(const Clients& clients, tcpmux::ShardMailbox& shard)
      : clients_(clients), shard_(shard) {}

  void accept(tcpmux::Tag tag, int) { accept_ = tag; }
  void watch_wakeups(tcpmux::Tag tag, int) { wakeup_ = tag; }
  void peek(tcpmux::Tag tag, int, std::span<char> buffer) {
    const std::size_t peeked = std::min(buffer.size(), clients_.line.size());
    std::copy_n(clients_.line.begin(), peeked, buffer.begin());
    complete(tag, peeked);
  }
  void discard(tcpmux::Tag tag, int, std::size_t count) { complete(tag, count); }
  void reply(tcpmux::Tag tag, int, std::size_t, std::span<const char> bytes, bool) {
    complete(tag, bytes.size());
  }
  void drain(tcpmux::Tag tag, int) { complete(tag, 0); }
  // Only accepting never ends by itself.
  void cancel(tcpmux::Tag tag, int) {
    TCPMUX_CHECK(tag.operation == tcpmux::Operation::kAccept, "nothing here waits");
    add({.tag = tag, .result = -ECANCELED});
  }
  void let_go(int) {}
  // The shard's listener has no descriptor.
  void close(int fd) { closed_ += fd >= 0 ? 1 : 0; }

  void shutdown_write(int) {}
  tcpmux::Endpoints endpoints(int) { return kEndpoints; }
  std::uint32_t queued_bytes(int) { return 0; }  // backends are as fast
  std::int64_t send_now(int, msghdr* message) {
    return static_cast<std::int64_t>(message->msg_iov[0].iov_len);
  }
  std::int64_t receive_now(int, msghdr*) { return -EAGAIN; }
  bool has_room_for(std::size_t) { return true; }
  int accept_now(int) { return -EAGAIN; }
  void dismiss(int, std::span<const char>) {}
  tcpmux::Shed shed(int, std::span<const char>) { return tcpmux::Shed::kNobodyWaits; }

  std::size_t reap(std::span<tcpmux::Completion> completions) {
    const std::size_t count = std::min(completions.size(), ready_count_);
    std::copy_n(ready_.begin(), count, completions.begin());
    std::copy(ready_.begin() + count, ready_.begin() + ready_count_, ready_.begin());
    ready_count_ -= count;
    return count;
  }
  std::size_t wait(std::span<tcpmux::Completion> completions, std::int64_t) {
    if (came_ < clients_.count) {
      const std::uint32_t wave = std::min(clients_.at_once, clients_.count - came_);
      for (std::uint32_t i = 0; i < wave; ++i)
        add({.tag = accept_, .result = kFirstFd + static_cast<int>(i), .more = true});
      came_ += wave;
    } else {
      end();
    }
    return reap(completions);
  }

  std::uint32_t closed() const { return closed_; }

 private:
  static constexpr int kFirstFd = 1000;
  static constexpr tcpmux::Endpoints kEndpoints = {
      .source = {.address = {.bytes = {192, 0, 2, 7}, .family = tcpmux::IpAddress::Family::kV4},
                 .port = 40282},
      .destination = {
          .address = {.bytes = {192, 0, 2, 1}, .family = tcpmux::IpAddress::Family::kV4},
          .port = 1}};

  void add(const tcpmux::Completion& completion) {
    TCPMUX_CHECK(ready_count_ < ready_.size(), "a connection has one operation in flight");
    ready_[ready_count_++] = completion;
  }
  void complete(tcpmux::Tag tag, std::size_t result) {
    add({.tag = tag, .result = static_cast<std::int32_t>(result)});
  }
  void end() {
    using Kind = tcpmux::ShardMessage::Kind;
    for (const Kind kind : {Kind::kShutdown, Kind::kStop}) {
      tcpmux::ShardMessage message;
      message.kind = kind;
      TCPMUX_CHECK(shard_.send(std::move(message)), "a mailbox has room for two");
    }
    complete(wakeup_, 1);
  }

  Clients clients_;
  tcpmux::ShardMailbox& shard_;
  tcpmux::Tag accept_;
  tcpmux::Tag wakeup_;
  std::uint32_t came_ = 0;
  std::uint32_t closed_ = 0;
  // One for each connection, one for accepting, and one that ends it.
  std::array<tcpmux::Completion, 258> ready_;
  std::size_t ready_count_ = 0;
};
static_assert(tcpmux::IoBackend<InstantEngine>);

}  // namespace bench
