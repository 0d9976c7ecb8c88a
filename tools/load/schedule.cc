#include "tools/load/schedule.h"

#include <cmath>

#include "core/base/clock.h"

namespace load {

std::int64_t Schedule::intended_ns() const {
  // From the count, not from the start before: no error adds up.
  const double turn = static_cast<double>(begun_) * plan_.threads + plan_.thread;
  return plan_.begin_ns +
         std::llround(turn / plan_.per_second * static_cast<double>(tcpmux::kNanosPerSecond));
}

std::optional<Schedule::Start> Schedule::take(std::int64_t now_ns, std::uint32_t open) {
  if (over(now_ns)) return std::nullopt;
  if (!is_open_loop()) {
    if (open >= plan_.at_once) return std::nullopt;
    ++begun_;
    return Start{.start_ns = now_ns};
  }
  const std::int64_t start_ns = intended_ns();
  if (start_ns > now_ns) return std::nullopt;
  const bool expired = now_ns - start_ns > plan_.patience_ns;
  if (!expired && open >= plan_.at_once) return std::nullopt;
  ++begun_;
  return Start{.start_ns = start_ns, .expired = expired};
}

std::int64_t Schedule::next_ns(std::uint32_t open) const {
  if (!is_open_loop() || begun_ >= plan_.count) return INT64_MAX;
  const std::int64_t start_ns = intended_ns();
  if (start_ns >= plan_.until_ns) return INT64_MAX;
  if (open < plan_.at_once) return start_ns;
  // All are under way: until then only one that ends makes room.
  return start_ns > INT64_MAX - plan_.patience_ns - 1 ? INT64_MAX
                                                      : start_ns + plan_.patience_ns + 1;
}

bool Schedule::over(std::int64_t now_ns) const {
  if (begun_ >= plan_.count) return true;
  return (is_open_loop() ? intended_ns() : now_ns) >= plan_.until_ns;
}

}  // namespace load
