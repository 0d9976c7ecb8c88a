// What processes cost: CPU time and wake-ups, of all their threads, as the kernel counts them.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

namespace load {

struct ProcessCost {
  std::int64_t cpu_ns = 0;   // of the threads that live now
  std::int64_t user_ns = 0;  // the part outside the kernel; by clock ticks, so a hundredth exact
  std::int64_t wakeups = 0;  // voluntary context switches: each is one sleep that ended
};

// All zero when there is no such process.
ProcessCost process_cost(pid_t process);

inline ProcessCost operator-(const ProcessCost& later, const ProcessCost& earlier) {
  return {.cpu_ns = later.cpu_ns - earlier.cpu_ns,
          .user_ns = later.user_ns - earlier.user_ns,
          .wakeups = later.wakeups - earlier.wakeups};
}

// Empty when there is no such process.
std::string process_name(pid_t process);

// Stops every thread of it, and waits until they stand still; false when that does not happen.
bool stop_process(pid_t process);

std::int64_t own_cpu_ns();

}  // namespace load
