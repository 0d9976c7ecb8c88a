#include "tools/load/measured.h"

#include <time.h>

#include "core/base/clock.h"

namespace load {
namespace {

constexpr timespec kSettle{.tv_sec = 0, .tv_nsec = 100 * tcpmux::kNanosPerMilli};

}  // namespace

CostMeter::CostMeter(const std::vector<pid_t>& processes) : processes_(processes) {
  for (const pid_t process : processes_)
    before_.push_back(process_cost(process));
  own_before_ns_ = own_cpu_ns();
}

void CostMeter::read(Measured& measured) const {
  measured.own_cpu_ns = own_cpu_ns() - own_before_ns_;
  if (!processes_.empty()) ::nanosleep(&kSettle, nullptr);
  for (std::size_t i = 0; i < processes_.size(); ++i)
    measured.costs.push_back(process_cost(processes_[i]) - before_[i]);
}

}  // namespace load
