// A count that one thread makes and others read.
#pragma once

#include <atomic>
#include <cstdint>

namespace tcpmux {

class Counter {
 public:
  // By the owning thread alone: a plain add, no locked instruction.
  void add(std::uint64_t more = 1) {
    value_.store(value_.load(std::memory_order_relaxed) + more, std::memory_order_relaxed);
  }
  std::uint64_t read() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_ = 0;
};

}  // namespace tcpmux
