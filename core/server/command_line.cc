#include <CLI/CLI.hpp>

#include <charconv>
#include <iostream>
#include <span>

#include "core/server/config.h"
#include "core/server/spelling.h"

namespace tcpmux {
namespace {

constexpr int kExitWrongUsage = 2;

constexpr const char* kDescription =
    "One TCP port, every service behind it (TCPMUX, RFC 1078): a client names a service, and the\n"
    "program that serves it is handed the client's own socket.\n";

constexpr const char* kFooter = R"(
Flags override the configuration file. With neither: port 1 on all addresses, the registry at
/run/tcpmux/registry.sock, the control socket at /run/tcpmux/registry.control.sock, and no service
but those that backends may register.

Examples:
  tcpmuxd --config /etc/tcpmuxd.toml
  tcpmuxd --config /etc/tcpmuxd.toml --check-config
  tcpmuxd --listen 127.0.0.1:4000 --listen [::1]:4000 --registry /tmp/registry.sock

Every key of the file, with its default, is explained in tcpmuxd.example.toml.)";

// A CLI11 check: empty where `text` is good, else what would be right.
std::string check_shards(const std::string& text) {
  std::uint32_t number = 0;
  const char* const text_end = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), text_end, number);
  if (error == std::errc{} && end == text_end && number <= kShardsMax) return {};
  return "'" + text + "' is not a whole number from 0 to " + std::to_string(kShardsMax);
}

std::optional<std::size_t> index_of(std::span<const std::string_view> names,
                                    std::string_view text) {
  const auto found = std::find(names.begin(), names.end(), text);
  if (found == names.end()) return std::nullopt;
  return static_cast<std::size_t>(found - names.begin());
}

auto check_word(std::span<const std::string_view> names) {
  return [names](const std::string& text) -> std::string {
    if (index_of(names, text)) return {};
    const std::string_view nearest = nearest_word(text, names);
    const std::string hint =
        nearest.empty() ? "" : "; did you mean '" + std::string(nearest) + "'?";
    return "'" + text + "' is not " + one_of(names) + hint;
  };
}

// Adds an option whose words stand in the order of `Enum`.
template <class Enum>
void add_word(CLI::App& app, const char* flag, std::span<const std::string_view> names,
              std::optional<Enum>& to, const std::string& help) {
  const auto take = [names, &to](const std::string& text) {
    to = static_cast<Enum>(index_of(names, text).value());
  };
  app.add_option_function<std::string>(flag, take, help + ": " + one_of(names))
      ->check(check_word(names), "")
      ->type_name("WORD");
}

void add_options(CLI::App& app, CommandLine& options) {
  app.set_version_flag("--version", std::string("tcpmuxd ") + TCPMUX_VERSION,
                       "Print the version and exit");
  app.add_option("--config", options.config_path, "Read this TOML file")->type_name("FILE");
  app.add_option("--listen", options.listen,
                 "Listen here; may be repeated, and replaces the file's list")
      ->type_name("ADDR:PORT")
      ->allow_extra_args(false);
  app.add_option("--registry", options.registry_path, "The Unix socket where backends register")
      ->type_name("PATH");
  app.add_option("--control", options.control_path,
                 "The Unix socket for tcpmux ctl, \"\" for none; default: the registry's\n"
                 "path with .control.sock in the place of .sock")
      ->type_name("PATH");
  app.add_option("--shards", options.shards,
                 "Threads that serve connections, 0 to " + std::to_string(kShardsMax) +
                     "; 0: one for each core")
      ->check(check_shards, "")
      ->type_name("N");
  add_word(app, "--engine", kEngineNames, options.engine, "How to wait for the kernel");
  add_word(app, "--log-level", kLogLevelNames, options.log_level, "The least that is logged");
  app.add_flag("--check-config", options.check_config,
               "Check file and flags, say what is wrong, and exit");
}

}  // namespace

ParsedCommandLine parse_command_line(int argc, const char* const* argv) {
  ParsedCommandLine parsed;
  CLI::App app(kDescription, "tcpmuxd");
  app.footer(kFooter);
  app.get_formatter()->column_width(28);
  app.set_help_flag("--help,-h", "Print this and exit");
  app.option_defaults()->always_capture_default(false);
  add_options(app, parsed.options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& wish) {  // --help, --version
    parsed.exit_code = app.exit(wish, std::cout, std::cerr);
  } catch (const CLI::ParseError& error) {
    std::cerr << "tcpmuxd: " << error.what() << "\nTry 'tcpmuxd --help'.\n";
    parsed.exit_code = kExitWrongUsage;
  }
  return parsed;
}

}  // namespace tcpmux
