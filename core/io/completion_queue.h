// A ring of completions that wait to be handed out. Sized at start.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <span>

#include "core/base/check.h"
#include "core/io/backend.h"

namespace tcpmux {

class CompletionQueue {
 public:
  explicit CompletionQueue(std::uint32_t capacity_min)
      : mask_(std::bit_ceil(capacity_min) - 1),
        entries_(std::make_unique_for_overwrite<Completion[]>(std::size_t{mask_} + 1)) {}

  std::uint32_t size() const { return end_ - begin_; }
  std::uint32_t capacity() const { return mask_ + 1; }

  void push(const Completion& completion) {
    TCPMUX_CHECK(size() < capacity(), "more operations in flight than IoLimits allows");
    entries_[end_++ & mask_] = completion;
  }

  std::size_t take(std::span<Completion> into) {
    const std::size_t count = std::min<std::size_t>(size(), into.size());
    for (std::size_t i = 0; i < count; ++i)
      into[i] = entries_[begin_++ & mask_];
    return count;
  }

 private:
  std::uint32_t mask_;
  std::unique_ptr<Completion[]> entries_;
  std::uint32_t begin_ = 0;  // these two run on and wrap
  std::uint32_t end_ = 0;
};

}  // namespace tcpmux
