// Slots and deadlines: what a connection pays for its place, and for standing in line.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "core/base/check.h"
#include "core/base/deadline_queue.h"
#include "core/base/slot_pool.h"
#include "core/server/connection_slot.h"

namespace bench {
namespace {

using tcpmux::Connection;
using tcpmux::DeadlineQueue;
using tcpmux::kNoSlot;
using tcpmux::SlotPool;

std::uint32_t slots_of(const benchmark::State& state) {
  return static_cast<std::uint32_t>(state.range(0));
}

// One comes, one goes: always the same slot, which the caches have.
void take_and_give_back(benchmark::State& state) {
  SlotPool<Connection> pool(slots_of(state));
  for (auto _ : state) {
    const std::uint32_t slot = pool.take();
    benchmark::DoNotOptimize(slot);
    pool.give_back(slot);
  }
}
BENCHMARK(take_and_give_back)->Name("slot_pool/one")->Arg(1'024)->Arg(65'536);

// All come, all go in another order: the slots are visited as a long life has left them.
void take_and_give_back_all(benchmark::State& state) {
  const std::uint32_t slots = slots_of(state);
  SlotPool<Connection> pool(slots);
  std::vector<std::uint32_t> order(slots);
  std::iota(order.begin(), order.end(), 0U);
  std::shuffle(order.begin(), order.end(), std::mt19937(1078));
  while (state.KeepRunningBatch(slots)) {
    for (std::uint32_t i = 0; i < slots; ++i)
      TCPMUX_CHECK(pool.take() != kNoSlot, "the pool has room for all");
    for (const std::uint32_t slot : order)
      pool.give_back(slot);
  }
}
BENCHMARK(take_and_give_back_all)->Name("slot_pool/all")->Arg(1'024)->Arg(65'536);

// Slots that are taken, and a queue in which some of them wait.
struct Line {
  explicit Line(std::uint32_t slots) : pool(slots), queue(pool) {
    for (std::uint32_t i = 0; i < slots; ++i)
      TCPMUX_CHECK(pool.take() == i, "a new pool gives its slots in order");
  }
  SlotPool<Connection> pool;
  DeadlineQueue<Connection> queue;
};

// A handshake that comes to its end in time: it joins behind all others, and leaves.
void join_and_leave(benchmark::State& state) {
  const std::uint32_t waiting = slots_of(state);
  Line line(waiting + 1);
  std::int64_t now_ns = 0;
  for (std::uint32_t i = 0; i < waiting; ++i)
    line.queue.join(i, ++now_ns);
  for (auto _ : state) {
    line.queue.join(waiting, ++now_ns);
    line.queue.leave(waiting);
    benchmark::ClobberMemory();
  }
}
BENCHMARK(join_and_leave)->Name("deadlines/join_leave")->Arg(0)->Arg(1'024)->Arg(65'536);

// All join, and expire in order.
void join_and_expire(benchmark::State& state) {
  const std::uint32_t waiting = slots_of(state);
  Line line(waiting);
  std::int64_t now_ns = 0;
  while (state.KeepRunningBatch(waiting)) {
    for (std::uint32_t i = 0; i < waiting; ++i)
      line.queue.join(i, ++now_ns);
    for (std::uint32_t i = 0; i < waiting; ++i)
      TCPMUX_CHECK(line.queue.take_expired(now_ns) == i, "first come, first out");
  }
}
BENCHMARK(join_and_expire)->Name("deadlines/join_expire")->Arg(1'024)->Arg(65'536);

// What every turn of the loop pays: nobody's time has come.
void nobody_expires(benchmark::State& state) {
  Line line(1);
  line.queue.join(0, tcpmux::kNever_ns);
  for (auto _ : state) {
    benchmark::ClobberMemory();
    benchmark::DoNotOptimize(line.queue.take_expired(0));
  }
}
BENCHMARK(nobody_expires)->Name("deadlines/nobody");

}  // namespace
}  // namespace bench
