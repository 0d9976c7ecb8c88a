// What processes cost: CPU time and wake-ups, of all their threads, as the kernel counts them.
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace bench {

struct ProcessCost {
  std::int64_t cpu_ns = 0;
  std::int64_t wakeups = 0;  // voluntary context switches: each is one sleep that ended
};

// Of the threads that live now. All zero when there is no such process.
ProcessCost process_cost(pid_t process);

inline ProcessCost operator-(const ProcessCost& later, const ProcessCost& earlier) {
  return {.cpu_ns = later.cpu_ns - earlier.cpu_ns, .wakeups = later.wakeups - earlier.wakeups};
}

// Stops every thread of it, and waits until they stand still; false when that does not happen.
bool stop_process(pid_t process);

}  // namespace bench
