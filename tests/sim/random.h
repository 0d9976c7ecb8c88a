// The one source of chance: xoshiro256**, seeded by splitmix64. No std distribution, whose results
// differ between libraries: a seed means the same world everywhere.
#pragma once

#include <bit>
#include <cstdint>

namespace tcpmux::sim {

class Random {
 public:
  explicit Random(std::uint64_t seed) {
    for (std::uint64_t& word : state_) {
      seed += 0x9E3779B97F4A7C15;
      std::uint64_t mixed = (seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9;
      mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB;
      word = mixed ^ (mixed >> 31);
    }
  }

  std::uint64_t next() {
    const std::uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
    const std::uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = std::rotl(state_[3], 45);
    return result;
  }
  // 0 to count - 1; count is at least 1.
  std::uint32_t below(std::uint32_t count) {
    return static_cast<std::uint32_t>(((next() >> 32) * count) >> 32);
  }
  // Both ends included.
  std::int64_t between(std::int64_t least, std::int64_t most) {
    return least + static_cast<std::int64_t>(next() % static_cast<std::uint64_t>(most - least + 1));
  }
  // From 0 to `most`, every order of magnitude about as often as the next: mostly small.
  std::int64_t skewed(std::int64_t most) { return between(0, most >> below(10)); }
  bool per_mille(std::int64_t chance) { return static_cast<std::int64_t>(below(1000)) < chance; }

 private:
  std::uint64_t state_[4];
};

}  // namespace tcpmux::sim
