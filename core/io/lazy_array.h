// A large array of zeros that costs memory only where it is touched: for records by descriptor
// number, of which there may be millions and are used a few.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <type_traits>
#include <utility>

#include "core/base/result.h"

namespace tcpmux {

// T is valid when all its bytes are zero.
template <class T>
class LazyArray {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

 public:
  static Result<LazyArray> create(std::size_t size) {
    // NORESERVE: or else strict overcommit counts the pages that will never be touched.
    void* memory = ::mmap(nullptr, size * sizeof(T), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return fail_errno("mmap of " + std::to_string(size) + " records");
    return LazyArray(static_cast<T*>(memory), size);
  }
  LazyArray(LazyArray&& other) noexcept
      : items_(std::exchange(other.items_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  LazyArray& operator=(LazyArray&&) = delete;
  ~LazyArray() {
    if (items_ != nullptr) ::munmap(items_, size_ * sizeof(T));
  }

  std::size_t size() const { return size_; }
  T& operator[](std::size_t index) { return items_[index]; }

 private:
  LazyArray(T* items, std::size_t size) : items_(items), size_(size) {}

  T* items_;
  std::size_t size_;
};

}  // namespace tcpmux
