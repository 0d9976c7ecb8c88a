#include "tools/load/crew.h"

#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>

#include <chrono>
#include <thread>

#include "tools/load/epoll_io.h"
#include "tools/load/uring_io.h"

namespace load {
namespace {

std::int64_t to_ns(double seconds) {
  return static_cast<std::int64_t>(seconds * static_cast<double>(tcpmux::kNanosPerSecond));
}

// The part of `all` that a thread has, where the first ones have what is left over.
template <class Number>
Number share(Number all, std::uint32_t thread, std::uint32_t threads) {
  return all / threads + (thread < all % threads ? 1 : 0);
}

}  // namespace

Crew::Crew(const Options& options, Engine engine, const Script& script, const Dialer& dialer,
           std::atomic<bool>& stop)
    : options_(options),
      engine_(engine),
      script_(script),
      dialer_(dialer),
      stop_(stop),
      // Two runs ask for different unknown names, and begin with different sources.
      first_number_(static_cast<std::uint64_t>(tcpmux::realtime_ns()) >> 10),
      progress_(options.threads),
      tallies_(options.threads),
      gate_(options.threads + 1) {
  if (options.warm_up_seconds > 0) phases_.push_back({.seconds = options.warm_up_seconds});
  phases_.push_back({.seconds = options.duration_seconds,
                     .count = options.mode == Mode::kHold ? options.connections : options.count});
}

std::uint32_t Crew::slots_of(std::uint32_t thread) const {
  return share(options_.connections, thread, options_.threads);
}

std::int64_t Crew::until_ns(const Phase& phase) const {
  return phase.seconds > 0 ? begin_ns_ + to_ns(phase.seconds) : tcpmux::kNever_ns;
}

Schedule Crew::schedule_of(const Phase& phase, std::uint32_t thread) const {
  SchedulePlan plan;
  plan.per_second = options_.rate;
  plan.at_once = slots_of(thread);
  if (phase.count > 0) plan.count = share(phase.count, thread, options_.threads);
  plan.begin_ns = begin_ns_;
  plan.until_ns = until_ns(phase);
  plan.patience_ns = options_.timeout_ms * tcpmux::kNanosPerMilli;
  plan.thread = thread;
  plan.threads = options_.threads;
  return Schedule(plan);
}

// --- a thread ---

void Crew::settle_in(std::uint32_t thread) const {
  // A constant rate needs wake-ups that come when they were asked for, not 50 us later.
  ::prctl(PR_SET_TIMERSLACK, 1);
  if (options_.pin.empty()) return;
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(static_cast<std::size_t>(options_.pin[thread % options_.pin.size()]), &cores);
  // That the cores are there was checked when the process itself was bound to them.
  ::pthread_setaffinity_np(::pthread_self(), sizeof cores, &cores);
}

template <LoadIo Io>
void Crew::work(std::uint32_t thread) {
  settle_in(thread);
  const auto io = Io::create(slots_of(thread));
  std::unique_ptr<Worker<Io>> worker;
  if (io) {
    const WorkerOptions options{
        .script = &script_,
        .dialer = &dialer_,
        .kinds = options_.kinds,
        .slots = slots_of(thread),
        .timeout_ns = options_.timeout_ms * tcpmux::kNanosPerMilli,
        .first_number = first_number_ + (std::uint64_t{thread} << 56),
        .stop = &stop_,
    };
    worker = std::make_unique<Worker<Io>>(options, **io, progress_[thread]);
  } else {
    const std::lock_guard lock(mutex_);
    error_ = io.error();
  }
  for (const Phase& phase : phases_) {
    gate_.arrive_and_wait();  // all are ready
    gate_.arrive_and_wait();  // the time is set
    if (worker) tallies_[thread] = worker->run(schedule_of(phase, thread), until_ns(phase));
    finished();
  }
}

void Crew::finished() {
  const std::lock_guard lock(mutex_);
  if (--running_ == 0) changed_.notify_all();
}

// --- the one who waits for them ---

void Crew::wait_for_all(Watch& watch) {
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, watch.period(), [this] { return running_ == 0; })) {
    if (!watch.look(progress_)) stop_.store(true, std::memory_order_relaxed);
  }
  watch.look(progress_);
}

Measured Crew::conduct(const Phase& phase) {
  gate_.arrive_and_wait();
  running_ = options_.threads;
  const bool is_measured = &phase == &phases_.back();
  Watch watch(options_, is_measured);
  const CostMeter meter(options_.cpu_of);
  begin_ns_ = tcpmux::monotonic_ns();
  gate_.arrive_and_wait();
  wait_for_all(watch);
  Measured measured;
  measured.elapsed_ns = tcpmux::monotonic_ns() - begin_ns_;
  if (!is_measured) return measured;
  meter.read(measured);
  for (const Tally& tally : tallies_)
    measured.tally.merge(tally);
  return measured;
}

tcpmux::Result<Measured> Crew::run() {
  std::vector<std::jthread> threads;
  for (std::uint32_t thread = 0; thread < options_.threads; ++thread)
    threads.emplace_back([this, thread] {
      engine_ == Engine::kUring ? work<UringIo>(thread) : work<EpollIo>(thread);
    });
  Measured measured;
  for (const Phase& phase : phases_)
    measured = conduct(phase);
  threads.clear();
  if (error_) return std::unexpected(*error_);
  return measured;
}

}  // namespace load
