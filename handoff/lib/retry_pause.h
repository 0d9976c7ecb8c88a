// How long to wait before the next attempt: twice as long each time, up to a bound, and shortened
// by up to half by chance, so that the backends of a mux that came back do not all come at once.
#pragma once

#include <cstdint>
#include <random>

namespace tcpmux::handoff {

class RetryPause {
 public:
  RetryPause(int first_ms, int last_ms, std::uint32_t seed)
      : first_ms_(first_ms), last_ms_(last_ms), next_ms_(first_ms), chance_(seed) {}

  void start_over() { next_ms_ = first_ms_; }
  std::int64_t next_ns();
  std::int64_t longest_ns() const;

 private:
  std::int64_t first_ms_;
  std::int64_t last_ms_;
  std::int64_t next_ms_;
  std::minstd_rand chance_;
};

}  // namespace tcpmux::handoff
