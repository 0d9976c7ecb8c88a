// What a run gave.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/load/options.h"
#include "tools/load/process_cost.h"
#include "tools/load/tally.h"

namespace load {

struct Measured {
  Tally tally;
  std::int64_t elapsed_ns = 0;
  std::int64_t own_cpu_ns = 0;
  std::vector<ProcessCost> costs;  // in the order of --cpu-of
};

// Takes what processes cost from when it is made until it is asked.
class CostMeter {
 public:
  explicit CostMeter(const std::vector<pid_t>& processes);

  // What we cost ourselves is taken at once; a server that has said its last reply is given time
  // to hand over and to close.
  void read(Measured& measured) const;

 private:
  const std::vector<pid_t>& processes_;
  std::int64_t own_before_ns_ = 0;
  std::vector<ProcessCost> before_;
};

}  // namespace load
