// What the linker puts here in the place of core/base/fd.cc, clock.cc and check.cc: descriptors
// that may be simulated, virtual time, and a CHECK that tells the seed. And operator new, which is
// forbidden while a shard has its turn.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <new>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/fd.h"
#include "tests/sim/context.h"
#include "tests/sim/world.h"

namespace tcpmux {

void OwnFd::reset(int fd) {
  const int old = std::exchange(fd_, fd);
  if (old < 0) return;
  if (old >= sim::kFirstDescriptor) return sim::world->close_owned(old);
  const int saved = errno;
  if (::close(old) < 0) TCPMUX_CHECK(errno != EBADF, "closed a descriptor that is not open");
  errno = saved;
}

std::int64_t monotonic_ns() {
  return sim::running->now_ns;
}

std::int64_t realtime_ns() {
  return sim::running->now_ns + sim::running->real_ahead_ns;
}

void check_failed(const char* condition, const char* file, int line, const char* why) {
  const sim::Outside outside;
  sim::broken(0, fmt::format("CHECK at {}:{}: {} (failed: {})", file, line, why, condition));
}

}  // namespace tcpmux

namespace {

void* allocate(std::size_t bytes) {
  if (tcpmux::sim::allocation_forbidden) {
    const tcpmux::sim::Outside outside;
    tcpmux::sim::broken(5, fmt::format("{} bytes are allocated in a shard's turn", bytes));
  }
  void* const memory = std::malloc(bytes > 0 ? bytes : 1);
  if (memory == nullptr) std::abort();
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
