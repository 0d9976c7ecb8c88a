// tcpmux: tells a running tcpmuxd what to do, and prints what it says.
#include <fmt/core.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "tools/ctl/conversation.h"
#include "tools/ctl/options.h"
#include "tools/ctl/report.h"

namespace ctl {
namespace {

using nlohmann::json;

constexpr std::int64_t kPatience_ns = 30 * tcpmux::kNanosPerSecond;
constexpr std::int64_t kUpgradePatience_ns = 120 * tcpmux::kNanosPerSecond;

const char* name_of(Command command) {
  switch (command) {
    case Command::kStatus:
      return "status";
    case Command::kDrain:
      return "drain";
    case Command::kReload:
      return "reload";
    case Command::kUpgrade:
      return "upgrade";
  }
  TCPMUX_UNREACHABLE("every command has a name");
}

int complain(const Failure& failure) {
  fmt::print(stderr, "tcpmux: {}\n", failure.message);
  return failure.exit_code;
}

// What came of a reload, and what in the file does not hold yet.
std::string reloaded_text(const json& reply) {
  std::string text = fmt::format("reloaded: {} services\n", reply.value("services", 0));
  for (const json& remark : reply.value("remarks", json::array()))
    text += remark.get<std::string>() + "\n";
  return text;
}

std::string text_of(Command command, const json& reply) {
  switch (command) {
    case Command::kStatus:
      return status_page(reply);
    case Command::kDrain:
      return "draining: no more connections are accepted, handshakes finish\n";
    case Command::kReload:
      return reloaded_text(reply);
    case Command::kUpgrade:
      return fmt::format("upgraded: pid {} -> {} ({} ms)\n", reply.value("old_pid", 0),
                         reply.value("new_pid", 0), reply.value("milliseconds", 0));
  }
  TCPMUX_UNREACHABLE("every command has words");
}

// What the daemon says of a mistake may have several lines, one for each: they are printed as they
// are, for an editor to find the places.
int print_reply(const Options& options, const std::string& line) {
  const json reply = json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!reply.is_object() || !reply.contains("ok"))
    return complain({kExitFailed, "the reply is not understood: " + line.substr(0, 200)});
  const bool ok = reply["ok"] == true;
  if (options.json) {
    fmt::print("{}\n", line);
  } else if (!ok) {
    fmt::print(stderr, "{}\n", reply.value("error", "the daemon refused, and did not say why"));
  } else {
    fmt::print("{}", text_of(options.command, reply));
  }
  std::fflush(stdout);
  return ok ? 0 : kExitFailed;
}

int run(const Options& options) {
  auto conversation = Conversation::begin(options.control);
  if (!conversation) return complain(conversation.error());
  const std::int64_t patience_ns =
      options.command == Command::kUpgrade ? kUpgradePatience_ns : kPatience_ns;
  const json request = {{"command", name_of(options.command)}};
  const auto line = conversation->ask(request.dump(), patience_ns);
  if (!line) return complain(line.error());
  const int exit_code = print_reply(options, *line);
  if (exit_code != 0 || !options.wait) return exit_code;
  const auto ended = conversation->wait_for_end();
  return ended ? 0 : complain(ended.error());
}

}  // namespace
}  // namespace ctl

int main(int argc, char** argv) {
  const ctl::ParsedOptions parsed = ctl::parse_options(argc, argv);
  if (parsed.exit_code) return *parsed.exit_code;
  try {
    return ctl::run(parsed.options);
  } catch (const nlohmann::json::exception& error) {  // a field of a type that nobody expected
    fmt::print(stderr, "tcpmux: the reply is not understood: {}\n", error.what());
    return ctl::kExitFailed;
  }
}
