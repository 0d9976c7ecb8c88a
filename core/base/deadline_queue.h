// Deadlines of one kind, in order. All entries of a queue are given the same duration, so a new
// one belongs at the end (or, if it began elsewhere, near it): joining, leaving and expiring cost
// O(1), with no heap and no allocation. A slot stands in at most one queue at a time.
//
// T (in a SlotPool) has public members `DeadlineLink deadline`, which belongs to the queue.
#pragma once

#include <cstdint>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/slot_pool.h"

namespace tcpmux {

struct DeadlineLink {
  std::int64_t at_ns = kNever_ns;
  std::uint32_t previous = kNoSlot;
  std::uint32_t next = kNoSlot;
  const void* queue = nullptr;  // the queue that holds this link; nullptr exactly when in none
};

template <class T>
class DeadlineQueue {
 public:
  explicit DeadlineQueue(SlotPool<T>& pool) : pool_(pool) {}
  DeadlineQueue(const DeadlineQueue&) = delete;
  DeadlineQueue& operator=(const DeadlineQueue&) = delete;

  void join(std::uint32_t index, std::int64_t at_ns) {
    DeadlineLink& link = pool_[index].deadline;
    TCPMUX_CHECK(link.queue == nullptr, "a slot can wait in one deadline queue only");
    std::uint32_t before = last_;
    while (before != kNoSlot && pool_[before].deadline.at_ns > at_ns)
      before = pool_[before].deadline.previous;
    const std::uint32_t after = before == kNoSlot ? first_ : pool_[before].deadline.next;
    link = {.at_ns = at_ns, .previous = before, .next = after, .queue = this};
    (before == kNoSlot ? first_ : pool_[before].deadline.next) = index;
    (after == kNoSlot ? last_ : pool_[after].deadline.previous) = index;
    ++size_;
  }

  bool holds(std::uint32_t index) const { return pool_[index].deadline.queue == this; }

  void leave(std::uint32_t index) {
    DeadlineLink& link = pool_[index].deadline;
    TCPMUX_CHECK(link.queue == this, "a slot leaves a deadline queue that it is not in");
    (link.previous == kNoSlot ? first_ : pool_[link.previous].deadline.next) = link.next;
    (link.next == kNoSlot ? last_ : pool_[link.next].deadline.previous) = link.previous;
    link = {};
    --size_;
  }

  // The first slot whose deadline has passed, taken out of the queue; kNoSlot when there is none.
  std::uint32_t take_expired(std::int64_t now_ns) {
    const std::uint32_t index = first_;
    if (index == kNoSlot || pool_[index].deadline.at_ns > now_ns) return kNoSlot;
    leave(index);
    return index;
  }

  std::int64_t next_ns() const {
    return first_ == kNoSlot ? kNever_ns : pool_[first_].deadline.at_ns;
  }
  std::uint32_t first() const { return first_; }
  std::uint32_t next(std::uint32_t index) const { return pool_[index].deadline.next; }
  std::uint32_t size() const { return size_; }

 private:
  SlotPool<T>& pool_;
  std::uint32_t first_ = kNoSlot;
  std::uint32_t last_ = kNoSlot;
  std::uint32_t size_ = 0;
};

}  // namespace tcpmux
