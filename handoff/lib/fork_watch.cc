#include "handoff/lib/fork_watch.h"

#include <pthread.h>

#include <atomic>
#include <mutex>

namespace tcpmux::handoff {
namespace {

std::atomic<std::uint32_t> generation{0};

void in_the_child() {
  generation.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

void watch_forks() {
  static std::once_flag once;
  std::call_once(once, [] { ::pthread_atfork(nullptr, nullptr, in_the_child); });
}

std::uint32_t fork_generation() {
  return generation.load(std::memory_order_relaxed);
}

}  // namespace tcpmux::handoff
