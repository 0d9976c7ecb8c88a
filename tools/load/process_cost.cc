#include "tools/load/process_cost.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include "core/base/clock.h"

namespace load {
namespace {

namespace fs = std::filesystem;

constexpr int kStopRounds = 1000;
constexpr timespec kStopPause{.tv_sec = 0, .tv_nsec = tcpmux::kNanosPerMilli};

std::string folder_of(pid_t process) {
  return "/proc/" + std::to_string(process);
}

std::vector<fs::path> threads_of(pid_t process) {
  std::vector<fs::path> threads;
  std::error_code gone;
  for (const auto& thread : fs::directory_iterator(folder_of(process) + "/task", gone))
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

// utime is field 14 of stat; the name, field 2, may hold spaces and brackets, and ends at the last.
std::int64_t user_ns_of(pid_t process) {
  std::ifstream file(folder_of(process) + "/stat");
  std::string stat;
  std::getline(file, stat);
  const std::size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(stat.substr(name_end + 1));
  std::string skipped;
  for (int field = 3; field < 14; ++field)
    fields >> skipped;
  std::int64_t ticks = 0;
  fields >> ticks;
  return ticks * (tcpmux::kNanosPerSecond / ::sysconf(_SC_CLK_TCK));
}

bool is_stopped(const fs::path& thread) {
  return status_of(thread, "State").starts_with('T');
}

}  // namespace

ProcessCost process_cost(pid_t process) {
  ProcessCost cost{.user_ns = user_ns_of(process)};
  for (const fs::path& thread : threads_of(process)) {
    const std::string switches = status_of(thread, "voluntary_ctxt_switches");
    cost.cpu_ns += cpu_ns_of(thread);
    cost.wakeups += switches.empty() ? 0 : std::stoll(switches);
  }
  return cost;
}

std::string process_name(pid_t process) {
  std::string name;
  std::ifstream file(folder_of(process) + "/comm");
  std::getline(file, name);
  return name;
}

bool stop_process(pid_t process) {
  if (::kill(process, SIGSTOP) < 0) return false;
  for (int round = 0; round < kStopRounds; ++round) {
    const std::vector<fs::path> threads = threads_of(process);
    if (!threads.empty() && std::ranges::all_of(threads, is_stopped)) return true;
    ::nanosleep(&kStopPause, nullptr);
  }
  return false;
}

std::int64_t own_cpu_ns() {
  timespec used{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return used.tv_sec * tcpmux::kNanosPerSecond + used.tv_nsec;
}

}  // namespace load
