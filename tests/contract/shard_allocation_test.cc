// A shard that runs allocates nothing: every case of the contract once more, in a program in which
// allocating on a shard's thread aborts, from just before run() to just after it.
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <string_view>
#include <thread>

#include "tests/contract/shard_change_cases.h"
#include "tests/contract/shard_handoff_cases.h"
#include "tests/contract/shard_handshake_cases.h"
#include "tests/contract/shard_leave_cases.h"
#include "tests/contract/shard_pause_cases.h"
#include "tests/contract/shard_shutdown_cases.h"
#include "tests/contract/shard_stall_cases.h"
#include "tests/contract/shard_takeback_cases.h"

// A sanitizer brings its own malloc; operator new is ours with it too.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define TCPMUX_SANITIZED
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TCPMUX_SANITIZED
#endif

namespace {

thread_local bool allocation_forbidden = false;

void check_allowed() {
  if (!allocation_forbidden) return;
  allocation_forbidden = false;
  constexpr std::string_view kWhy = "an allocation on a shard's thread that runs\n";
  [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, kWhy.data(), kWhy.size());
  std::abort();
}

void* allocate(std::size_t bytes) {
  check_allowed();
  void* const memory = std::malloc(bytes > 0 ? bytes : 1);
  if (memory == nullptr) std::abort();
  return memory;
}

void* allocate(std::size_t bytes, std::align_val_t alignment) {
  check_allowed();
  void* memory = nullptr;
  if (::posix_memalign(&memory, static_cast<std::size_t>(alignment), bytes > 0 ? bytes : 1) != 0)
    std::abort();
  return memory;
}

// Not inlined: the compiler would take free() behind new for a mistake.
[[gnu::noinline]] void release(void* memory) {
  std::free(memory);
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
void operator delete(void* memory) noexcept {
  release(memory);
}
void operator delete[](void* memory) noexcept {
  release(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  release(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
  release(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  release(memory);
}
void operator delete[](void* memory, std::align_val_t) noexcept {
  release(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  release(memory);
}
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept {
  release(memory);
}

#ifndef TCPMUX_SANITIZED
// What a C library that we call would ask for. glibc's own names for what these stand before.
extern "C" {
void* __libc_malloc(std::size_t bytes);
void* __libc_calloc(std::size_t count, std::size_t bytes);
void* __libc_realloc(void* memory, std::size_t bytes);

void* malloc(std::size_t bytes) {
  check_allowed();
  return __libc_malloc(bytes);
}
void* calloc(std::size_t count, std::size_t bytes) {
  check_allowed();
  return __libc_calloc(count, bytes);
}
void* realloc(void* memory, std::size_t bytes) {
  check_allowed();
  return __libc_realloc(memory, bytes);
}
}
#endif

namespace tcpmux::contract_test {
namespace {

const bool is_watched = [] {
  shard_thread_runs = [](bool runs) { allocation_forbidden = runs; };
  return true;
}();

void on_a_thread_that_runs(void (*work)()) {
  std::thread([work] {
    shard_thread_runs(true);
    work();
    shard_thread_runs(false);
  }).join();
}

// Where the compiler cannot see that nothing is done with it.
void* volatile kept = nullptr;

TEST(AllocationWatch, SeesOperatorNew) {
  ASSERT_TRUE(is_watched);
  EXPECT_DEATH(on_a_thread_that_runs([] { kept = ::operator new(8); }), "an allocation");
  EXPECT_DEATH(on_a_thread_that_runs([] { kept = new std::array<int, 4>; }), "an allocation");
}

#ifndef TCPMUX_SANITIZED
TEST(AllocationWatch, SeesMalloc) {
  EXPECT_DEATH(on_a_thread_that_runs([] { kept = std::malloc(8); }), "an allocation");
  EXPECT_DEATH(on_a_thread_that_runs([] { kept = std::calloc(2, 8); }), "an allocation");
  EXPECT_DEATH(on_a_thread_that_runs([] { kept = std::realloc(nullptr, 8); }), "an allocation");
}
#endif

// Freeing is no allocation: messages, tables and lanes that others made may end there.
TEST(AllocationWatch, LetsThreadsFree) {
  kept = ::operator new(8);
  on_a_thread_that_runs([] { ::operator delete(kept); });
}

}  // namespace
}  // namespace tcpmux::contract_test
