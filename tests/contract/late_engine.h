// An engine that can keep the news that replies are sent to itself: they are, and the shard does
// not know it yet.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

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
  // So that those that are kept always find room among others.
  std::span<Completion> room_of(std::span<Completion> completions) const {
    return completions.first(completions.size() - kept_.size());
  }

  std::size_t kept(std::span<Completion> completions, std::size_t count) {
    const auto end = completions.begin() + static_cast<std::ptrdiff_t>(count);
    const auto replies = std::stable_partition(completions.begin(), end, [](const Completion& one) {
      return one.tag.operation != Operation::kReply;
    });
    kept_.insert(kept_.end(), replies, end);
    if (keeps_replies) return static_cast<std::size_t>(replies - completions.begin());
    const auto filled = std::copy(kept_.begin(), kept_.end(), replies);
    kept_.clear();
    return static_cast<std::size_t>(filled - completions.begin());
  }

  std::vector<Completion> kept_;
};

}  // namespace tcpmux::contract_test
