// The threads of a run: each has an engine and connections of its own. All begin at the same time,
// first with the warm-up where there is one, and then with what is measured.
#pragma once

#include <atomic>
#include <barrier>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "core/base/result.h"
#include "tools/load/measured.h"
#include "tools/load/options.h"
#include "tools/load/schedule.h"
#include "tools/load/watch.h"
#include "tools/load/worker.h"

namespace load {

class Crew {
 public:
  // `engine` is not kAuto. `stop` ends the run early: no more connections begin.
  Crew(const Options& options, Engine engine, const Script& script, const Dialer& dialer,
       std::atomic<bool>& stop);

  tcpmux::Result<Measured> run();

 private:
  struct Phase {
    double seconds = 0;       // 0: without end
    std::uint64_t count = 0;  // 0: without bound
  };

  template <LoadIo Io>
  void work(std::uint32_t thread);
  void settle_in(std::uint32_t thread) const;
  std::int64_t until_ns(const Phase& phase) const;
  Schedule schedule_of(const Phase& phase, std::uint32_t thread) const;
  std::uint32_t slots_of(std::uint32_t thread) const;
  void finished();
  Measured conduct(const Phase& phase);
  void wait_for_all(Watch& watch);

  const Options& options_;
  const Engine engine_;
  const Script& script_;
  const Dialer& dialer_;
  std::atomic<bool>& stop_;
  std::vector<Phase> phases_;
  const std::uint64_t first_number_;
  std::vector<Progress> progress_;
  std::vector<Tally> tallies_;
  std::barrier<> gate_;
  std::int64_t begin_ns_ = 0;  // of the phase; written while all wait at the gate

  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint32_t running_ = 0;
  std::optional<tcpmux::Error> error_;
};

}  // namespace load
