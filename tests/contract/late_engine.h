// An engine that can keep the news that replies are sent to itself: they are, and the shard does
// not know it yet.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "core/base/check.h"
#include "core/io/backend.h"
#include "tests/contract/forwarding_engine.h"

namespace tcpmux::contract_test {

template <IoBackend Io>
class Late : public Forwarding<Late<Io>, Io> {
 public:
  // Told by the test's thread, who then wakes the shard.
  inline static std::atomic<bool> keeps_replies = false;
  inline static std::atomic<std::uint64_t> waits = 0;

  using Forwarding<Late, Io>::Forwarding;

  std::size_t reap(std::span<Completion> completions) {
    return kept(completions, this->io_->reap(room_of(completions)));
  }
  std::size_t wait(std::span<Completion> completions, std::int64_t deadline_ns) {
    ++waits;
    return kept(completions, this->io_->wait(room_of(completions), deadline_ns));
  }

 private:
  static constexpr std::size_t kKeptMax = 64;  // nothing is allocated while a shard runs

  // So that those that are kept always find room among others.
  std::span<Completion> room_of(std::span<Completion> completions) const {
    return completions.first(completions.size() - count_);
  }

  std::size_t kept(std::span<Completion> completions, std::size_t count) {
    const auto end = completions.begin() + static_cast<std::ptrdiff_t>(count);
    auto filled = completions.begin();
    for (auto one = completions.begin(); one != end; ++one) {
      if (one->tag.operation != Operation::kReply) {
        *filled++ = *one;
      } else {
        TCPMUX_CHECK(count_ < kKeptMax, "a test keeps few replies");
        kept_[count_++] = *one;
      }
    }
    if (!keeps_replies) filled = std::copy_n(kept_.begin(), std::exchange(count_, 0), filled);
    return static_cast<std::size_t>(filled - completions.begin());
  }

  std::array<Completion, kKeptMax> kept_;
  std::size_t count_ = 0;
};

}  // namespace tcpmux::contract_test
