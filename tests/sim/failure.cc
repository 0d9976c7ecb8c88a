#include "tests/sim/failure.h"

#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <vector>

#include "tests/sim/context.h"

extern char** environ;

namespace tcpmux::sim {

Replay replay;
Context* running = nullptr;
bool allocation_forbidden = false;

namespace {

constexpr std::size_t kLines = 60;

// True when the seed still fails with these options.
bool fails_with(const std::string& options) {
  const std::string command =
      fmt::format("exec {} --quiet --seed {}{}", replay.program, running->seed, options);
  std::string shell = "/bin/sh";
  std::string flag = "-c";
  std::string text = command;
  char* const arguments[] = {shell.data(), flag.data(), text.data(), nullptr};
  pid_t child = -1;
  if (::posix_spawn(&child, shell.c_str(), nullptr, nullptr, arguments, environ) != 0) return false;
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 1;
}

// Turns one fault after the other off, as long as the seed still fails.
void shrink() {
  std::string options = replay.options;
  std::string needed;
  for (std::size_t i = 0; i < kDialCount; ++i) {
    const auto dial = static_cast<Dial>(i);
    const std::int64_t value = running->dials[dial];
    if (!info(dial).is_fault || value == 0) continue;
    const std::string without = fmt::format("{} --dial {}=0", options, info(dial).name);
    if (fails_with(without)) {
      options = without;
    } else {
      needed += fmt::format(" {}={}", info(dial).name, value);
    }
  }
  fmt::print(stderr, "  faults needed:{}\n  smaller:    {} --trace --seed {}{}\n",
             needed.empty() ? " none" : needed, replay.program, running->seed, options);
}

}  // namespace

void broken(int invariant, const std::string& what) {
  allocation_forbidden = false;
  if (!replay.quiet) {
    running->trace.print_last(kLines);
    fmt::print(stderr, "\nBROKEN: {}\n", what);
    if (invariant > 0)
      fmt::print(stderr, "  invariant:  {} (ARCHITECTURE.md, \"What must always hold\")\n",
                 invariant);
    fmt::print(stderr, "  seed:       {}\n  replay:     {} --seed {}{}\n  dials:      {}\n",
               running->seed, replay.program, running->seed, replay.options, running->dials.text());
    std::fflush(stderr);
    if (replay.shrinks) shrink();
  }
  std::fflush(stdout);
  ::_exit(1);
}

}  // namespace tcpmux::sim
