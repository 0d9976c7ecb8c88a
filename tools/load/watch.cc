#include "tools/load/watch.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

namespace load {
namespace {

constexpr std::int64_t kDraw_ns = 250 * tcpmux::kNanosPerMilli;

std::uint64_t sum(std::span<const Progress> progress, tcpmux::Counter Progress::* counter) {
  std::uint64_t total = 0;
  for (const Progress& of_thread : progress)
    total += (of_thread.*counter).read();
  return total;
}

double seconds(std::int64_t duration_ns) {
  return static_cast<double>(duration_ns) / static_cast<double>(tcpmux::kNanosPerSecond);
}

}  // namespace

Watch::Watch(const Options& options, bool is_measured)
    : options_(options),
      is_measured_(is_measured),
      live_(options.progress.value_or(::isatty(STDERR_FILENO) == 1)),
      begin_ns_(tcpmux::monotonic_ns()),
      drawn_ns_(begin_ns_) {}

Watch::~Watch() {
  if (drawn_) fmt::print(stderr, "\r\x1b[K");
}

std::chrono::milliseconds Watch::period() const {
  using std::chrono::milliseconds;
  if (options_.mode == Mode::kHold && !holding_) return milliseconds(5);
  return milliseconds(live_ ? kDraw_ns / tcpmux::kNanosPerMilli : 60'000);
}

bool Watch::look(std::span<const Progress> progress) {
  if (live_) draw(progress);
  if (options_.mode != Mode::kHold || holding_) return true;
  if (sum(progress, &Progress::failed) > 0) return false;
  holding_ = sum(progress, &Progress::held) == options_.connections;
  if (!holding_) return true;
  fmt::print("holding {}\n", options_.connections);
  std::fflush(stdout);
  return true;
}

void Watch::draw(std::span<const Progress> progress) {
  const std::int64_t now_ns = tcpmux::monotonic_ns();
  if (now_ns - drawn_ns_ < kDraw_ns / 2) return;
  const std::uint64_t completed = sum(progress, &Progress::completed);
  const std::uint64_t over = sum(progress, &Progress::over);
  const double rate = static_cast<double>(completed - std::min(completed, completed_)) /
                      seconds(now_ns - drawn_ns_);
  fmt::print(stderr, "\r\x1b[K{:.1f} s{}: {} open, {} completed ({:.0f}/s), {} failed",
             seconds(now_ns - begin_ns_), is_measured_ ? "" : " (warm-up)",
             sum(progress, &Progress::open) - over, completed, rate,
             sum(progress, &Progress::failed));
  if (const std::uint64_t messages = sum(progress, &Progress::messages); messages > 0)
    fmt::print(stderr, ", {} messages", messages);
  std::fflush(stderr);
  drawn_ = true;
  drawn_ns_ = now_ns;
  completed_ = completed;
}

}  // namespace load
