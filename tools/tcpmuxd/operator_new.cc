// operator new that asks std::get_new_handler, as the standard has it. libmimalloc brings one of
// its own, which aborts without a word where it was built as C (Debian 12's was). Memory still
// comes from its malloc, and goes back by its operator delete.
#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <new>

#include "core/server/memory_reserve.h"

namespace {

template <class Allocate>
void* until_there_is_memory(Allocate allocate) {
  for (;;) {
    if (void* const memory = allocate(); memory != nullptr) return memory;
    const std::new_handler handler = std::get_new_handler();
    // Before main() nobody could have set one.
    handler != nullptr ? handler() : tcpmux::out_of_memory();
  }
}

void* allocate(std::size_t bytes) {
  return until_there_is_memory([&] { return std::malloc(std::max<std::size_t>(bytes, 1)); });
}

void* allocate(std::size_t bytes, std::align_val_t alignment) {
  return until_there_is_memory([&] {
    void* memory = nullptr;
    return ::posix_memalign(&memory, static_cast<std::size_t>(alignment), bytes) == 0 ? memory
                                                                                      : nullptr;
  });
}

}  // namespace

void* operator new(std::size_t bytes) {
  return allocate(bytes);
}
void* operator new[](std::size_t bytes) {
  return allocate(bytes);
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, alignment);
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, alignment);
}
