// A fixed number of T, made at start and never again. A slot is named by {index, generation}: a
// completion that comes late for a slot that was freed meanwhile carries an old generation and is
// seen as stale.
#pragma once

#include <cstdint>
#include <memory>

#include "core/base/check.h"

namespace tcpmux {

inline constexpr std::uint32_t kNoSlot = UINT32_MAX;

struct SlotName {
  std::uint32_t index = kNoSlot;
  std::uint32_t generation = 0;
};

// T has public members `std::uint32_t generation` and `std::uint32_t next_free`, which belong to
// the pool. Generations have 24 bits (they travel in a completion's tag, core/io/backend.h).
template <class T>
class SlotPool {
 public:
  explicit SlotPool(std::uint32_t capacity)
      : slots_(std::make_unique<T[]>(capacity)), capacity_(capacity), free_count_(capacity) {
    for (std::uint32_t i = 0; i < capacity; ++i)
      slots_[i].next_free = i + 1 < capacity ? i + 1 : kNoSlot;
    first_free_ = capacity > 0 ? 0 : kNoSlot;
  }

  // kNoSlot when none is free. The slot's own state is as its last user left it.
  std::uint32_t take() {
    const std::uint32_t index = first_free_;
    if (index == kNoSlot) return kNoSlot;
    first_free_ = slots_[index].next_free;
    slots_[index].next_free = index;  // true exactly when taken: it points to itself
    --free_count_;
    return index;
  }

  void give_back(std::uint32_t index) {
    TCPMUX_CHECK(taken(index), "a slot was freed twice");
    T& slot = slots_[index];
    slot.generation = (slot.generation + 1) & 0xFFFFFF;
    slot.next_free = first_free_;
    first_free_ = index;
    ++free_count_;
  }

  bool taken(std::uint32_t index) const {
    return index < capacity_ && slots_[index].next_free == index;
  }
  // nullptr when the name is stale.
  T* find(SlotName name) {
    if (!taken(name.index) || slots_[name.index].generation != name.generation) return nullptr;
    return &slots_[name.index];
  }
  T& operator[](std::uint32_t index) { return slots_[index]; }
  const T& operator[](std::uint32_t index) const { return slots_[index]; }

  std::uint32_t capacity() const { return capacity_; }
  std::uint32_t free_count() const { return free_count_; }
  std::uint32_t taken_count() const { return capacity_ - free_count_; }

 private:
  std::unique_ptr<T[]> slots_;
  std::uint32_t capacity_;
  std::uint32_t first_free_ = kNoSlot;
  std::uint32_t free_count_;
};

}  // namespace tcpmux
