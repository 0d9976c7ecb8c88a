// tcpmuxd: the mux. Reads what it is told, and runs a Daemon (daemon.h), which is the map of the
// program.
#include <fmt/core.h>
#include <unistd.h>

#include <climits>
#include <cstdio>
#include <memory>
#include <new>
#include <optional>

#include "core/server/config.h"
#include "core/server/memory_reserve.h"
#include "core/server/steward.h"
#include "handoff/takeover.h"
#include "tools/tcpmuxd/daemon.h"
#include "tools/tcpmuxd/log.h"

namespace tcpmux {
namespace {

// Where our binary is: the next one will be there too.
std::string path_of_program(const char* name) {
  char path[PATH_MAX];
  const ssize_t bytes = ::readlink("/proc/self/exe", path, sizeof path);
  return bytes > 0 ? std::string(path, static_cast<std::size_t>(bytes)) : name;
}

int say_failure(const std::string& message, std::optional<handoff::Takeover>& takeover) {
  fmt::print(stderr, "{}\n", message);
  if (takeover) takeover->failed(message);
  return 1;
}

Result<std::optional<handoff::Takeover>> predecessor() {
  auto takeover = handoff::Takeover::from_environment();
  if (takeover && *takeover)
    if (Status offered = (*takeover)->receive_offer(); !offered)
      return std::unexpected(offered.error());
  return takeover;
}

int run(int argc, char** argv) {
  std::set_new_handler(out_of_memory);
  const ParsedCommandLine parsed = parse_command_line(argc, argv);
  if (parsed.exit_code) return *parsed.exit_code;
  std::optional<handoff::Takeover> nobody;
  auto takeover = predecessor();
  if (!takeover) return say_failure("tcpmuxd: " + takeover.error().message, nobody);
  Result<Config> config = load_config(parsed.options);
  if (!config) return say_failure(config.error().message, *takeover);
  if (parsed.options.check_config) {
    fmt::print("{}: ok, {} services\n", parsed.options.config_path.value_or("the defaults"),
               config->services.size());
    return 0;
  }
  block_signals();
  Result<std::unique_ptr<Logging>> logging = Logging::start(config->log_level);
  if (!logging) return say_failure("tcpmuxd: " + logging.error().message, *takeover);
  Daemon daemon({.options = parsed.options,
                 .program = path_of_program(argv[0]),
                 .arguments = {argv, argv + argc}},
                *std::move(config), *std::move(takeover));
  const Status made = daemon.make();
  const Result<int> ended = made ? daemon.run(*logging) : std::unexpected(made.error());
  if (ended) return *ended;
  daemon.say_failed(ended.error().message);
  logging->reset();  // the last line is to be the reason
  fmt::print(stderr, "tcpmuxd: {}\n", ended.error().message);
  return 1;
}

}  // namespace
}  // namespace tcpmux

int main(int argc, char** argv) {
  return tcpmux::run(argc, argv);
}
