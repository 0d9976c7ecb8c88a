#include "tools/ctl/options.h"

#include <CLI/CLI.hpp>
#include <array>
#include <iostream>

#include "core/server/config.h"
#include "core/server/control_path.h"

namespace ctl {
namespace {

constexpr const char* kDescription =
    "Speaks to a running tcpmuxd: one TCP port, every service behind it.\n";

constexpr const char* kFooter = R"(
Examples:
  tcpmux ctl status                                 what it does, whom it serves, what it counted
  tcpmux ctl status --json | jq .counters.accepted
  tcpmux ctl reload --registry /tmp/registry.sock   the one whose registry is there
  tcpmux ctl drain --wait && echo it is gone

Exit status: 0 done; 1 refused, or it failed; 2 wrong usage; 3 no tcpmuxd is there.)";

constexpr const char* kCtlDescription =
    "Asks a running tcpmuxd for its state, or tells it what to do, over its control\nsocket, as "
    "root "
    "or as the user that it runs as";

struct CommandWords {
  Command command;
  const char* name;
  const char* help;
};
constexpr std::array kCommands = {
    CommandWords{Command::kStatus, "status", "Its state, backends and counters"},
    CommandWords{Command::kDrain, "drain",
                 "End it well: no more connections, handshakes finish (as SIGTERM)"},
    CommandWords{Command::kReload, "reload", "Have it read its configuration file again"},
    CommandWords{Command::kUpgrade, "upgrade",
                 "Replace it by the program that is installed now; no connection is lost"},
};

// What the flags say that needs more than a place in Options.
struct Flags {
  std::optional<std::string> control;
  std::optional<std::string> registry;
};

void add_ctl(CLI::App& app, Options& options, Flags& flags) {
  CLI::App& ctl = *app.add_subcommand("ctl", kCtlDescription);
  ctl.footer(kFooter);
  ctl.require_subcommand(1);
  ctl.add_flag("--json", options.json, "Print the daemon's reply as it is: one JSON object");
  CLI::Option* const control =
      ctl.add_option("--control", flags.control, "The daemon's control socket");
  CLI::Option* const registry =
      ctl.add_option(
             "--registry", flags.registry,
             "Or its registry: the control socket is beside it, unless it was told otherwise")
          ->excludes(control);
  control->option_text("PATH");
  registry->option_text("PATH");
  for (const CommandWords& words : kCommands) {
    CLI::App& one = *ctl.add_subcommand(words.name, words.help);
    one.footer("");
    one.fallthrough();  // the flags of ctl may stand behind the command
    one.callback([&options, command = words.command] { options.command = command; });
    if (words.command == Command::kDrain)
      one.add_flag("--wait", options.wait, "Come back when the daemon has ended");
  }
}

// Where the daemon is expected.
std::string control_path(const Flags& flags) {
  if (flags.control) return *flags.control;
  return tcpmux::control_path_beside(flags.registry.value_or(tcpmux::Config::Registry{}.path));
}

}  // namespace

ParsedOptions parse_options(int argc, const char* const* argv) {
  ParsedOptions parsed;
  Flags flags;
  CLI::App app(kDescription, "tcpmux");
  app.footer(kFooter);
  app.get_formatter()->column_width(24);
  app.set_help_flag("--help,-h", "Print this and exit");
  app.set_version_flag("--version", std::string("tcpmux ") + TCPMUX_VERSION,
                       "Print the version and exit");
  app.require_subcommand(1);
  add_ctl(app, parsed.options, flags);
  try {
    app.parse(argc, argv);
    parsed.options.control = control_path(flags);
  } catch (const CLI::Success& wish) {  // --help, --version
    parsed.exit_code = app.exit(wish, std::cout, std::cerr);
  } catch (const CLI::ParseError& error) {
    std::cerr << "tcpmux: " << error.what() << "\nTry 'tcpmux ctl --help'.\n";
    parsed.exit_code = kExitWrongUsage;
  }
  return parsed;
}

}  // namespace ctl
