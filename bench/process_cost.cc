#include "bench/process_cost.h"

#include <signal.h>
#include <time.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace bench {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> threads_of(pid_t process) {
  std::vector<fs::path> threads;
  std::error_code gone;
  for (const auto& thread :
       fs::directory_iterator("/proc/" + std::to_string(process) + "/task", gone))
    threads.push_back(thread.path());
  return threads;
}

// The first field is the time on a processor in nanoseconds.
std::int64_t cpu_ns_of(const fs::path& thread) {
  std::int64_t cpu_ns = 0;
  std::ifstream(thread / "schedstat") >> cpu_ns;
  return cpu_ns;
}

// "voluntary_ctxt_switches:\t12", "State:\tT (stopped)"
std::string status_of(const fs::path& thread, const std::string& key) {
  std::ifstream status(thread / "status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(key + ":\t")) return line.substr(key.size() + 2);
  return "";
}

bool is_stopped(const fs::path& thread) {
  return status_of(thread, "State").starts_with('T');
}

}  // namespace

ProcessCost process_cost(pid_t process) {
  ProcessCost cost;
  for (const fs::path& thread : threads_of(process)) {
    const std::string switches = status_of(thread, "voluntary_ctxt_switches");
    cost.cpu_ns += cpu_ns_of(thread);
    cost.wakeups += switches.empty() ? 0 : std::stoll(switches);
  }
  return cost;
}

bool stop_process(pid_t process) {
  if (::kill(process, SIGSTOP) < 0) return false;
  for (int i = 0; i < 1000; ++i) {
    const std::vector<fs::path> threads = threads_of(process);
    if (!threads.empty() && std::ranges::all_of(threads, is_stopped)) return true;
    const timespec pause{.tv_sec = 0, .tv_nsec = 1'000'000};
    ::nanosleep(&pause, nullptr);
  }
  return false;
}

}  // namespace bench
