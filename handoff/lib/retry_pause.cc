#include "handoff/lib/retry_pause.h"

#include <algorithm>

#include "core/base/clock.h"

namespace tcpmux::handoff {

std::int64_t RetryPause::next_ns() {
  const std::int64_t longest = std::min(next_ms_, last_ms_) * kNanosPerMilli;
  next_ms_ = std::min(next_ms_ * 2, last_ms_);
  return std::uniform_int_distribution<std::int64_t>(longest / 2, longest)(chance_);
}

std::int64_t RetryPause::longest_ns() const {
  return last_ms_ * kNanosPerMilli;
}

}  // namespace tcpmux::handoff
