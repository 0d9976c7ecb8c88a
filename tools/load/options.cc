#include "tools/load/options.h"

#include <sched.h>

#include <CLI/CLI.hpp>
#include <climits>
#include <initializer_list>
#include <iostream>
#include <memory>
#include <string>

#include "tools/load/dial.h"

namespace load {
namespace {

constexpr std::uint32_t kConnectionsMax = 60'000;
constexpr std::uint64_t kCountMax = std::uint64_t{1} << 62;
constexpr std::uint32_t kBytesMax = 1024 * 1024;
constexpr std::uint32_t kSourceAddressesMax = 65'000;
constexpr std::uint32_t kThreadsMax = 256;
constexpr double kSecondsMax = 86'400;
constexpr double kRateMax = 10'000'000;
constexpr std::size_t kServiceBytesMax = 255;
constexpr double kDurationDefault = 10;

constexpr const char* kDescription =
    "Makes connections to a TCPMUX server (RFC 1078), checks every byte that comes back, and "
    "tells\n"
    "how many there were, how long they took, and what they cost.\n";

constexpr const char* kFooter = R"(
Kinds, of which several with weights are a mix ("session=3,unknown=1"):
  handshake  the name, the reply, close           unknown  a name that nobody serves: wants "-"
  session    then messages that are echoed        help     HELP: wants names, and the end
  early      bytes behind the line, echoed        trickle  a handshake, a byte at a time
  half       half a line, and silence             silent   nothing at all
half and silent complete when the server closes them, at its deadline.

Examples:
  tcpmux-load 127.0.0.1:4001                            64 at once, for 10 seconds
  tcpmux-load --rate 5000 --duration 30 127.0.0.1:4001  5,000 a second, however slow the server;
                                                        latency counts from the intended start
  tcpmux-load --kind session --messages 1000 --bytes 65536 --connections 4 [::1]:4001
  tcpmux-load --kind handshake=8,unknown=1,help=1 --count 10000 --close rst 127.0.0.1:4001
  tcpmux-load --backlog 3000 --stop $(pidof tcpmuxd) --cpu-of $(pidof tcpmuxd) 127.0.0.1:4001
  tcpmux-load --hold --kind half --connections 5000 127.0.0.1:4001      until Ctrl-C

Exit status: 0 all well; 1 a connection failed or a reply was wrong; 2 wrong usage, or cannot run.)";

// What the flags say that needs more than a place in Options.
struct Flags {
  std::string target;
  std::string kinds;
  std::string close = "fin";
  std::string engine = "auto";
  std::uint32_t backlog = 0;
  bool hold = false;
  bool no_progress = false;
  bool progress = false;
  double duration_seconds = 0;
};

// Checks that say what is wrong, and are silent in the help, where they would be in the way.
template <class Number>
CLI::Validator in_range(Number least, Number most) {
  return CLI::Range(least, most).description("");
}
CLI::Validator one_of(std::initializer_list<std::string> words) {
  return CLI::IsMember(words).description("");
}

// Of an option only its name and what it wants; what excludes what is said when it matters.
class Formatter : public CLI::Formatter {
  std::string make_option_opts(const CLI::Option* option) const override {
    return option->get_type_size() == 0 ? "" : " " + option->get_type_name();
  }
};

void add_what(CLI::App& app, Options& options, Flags& flags) {
  app.add_option("target", flags.target, "Where to connect to: 127.0.0.1:4001, [::1]:4001")
      ->required()
      ->type_name("HOST:PORT");
  app.add_option("--service", options.service, "The service to ask for (default echo)")
      ->type_name("NAME");
  app.add_option("--expect", options.expect,
                 "The exact reply, without CRLF (default: any that begins with '+')")
      ->type_name("TEXT");
  app.add_option("--kind", flags.kinds, "What connections do; see below (default handshake)")
      ->type_name("KIND[=WEIGHT],...");
  app.add_option("--messages", options.messages, "Of a session (default 10)")
      ->check(in_range(std::uint64_t{0}, kCountMax))
      ->type_name("N");
  app.add_option("--bytes", options.bytes, "Of a message (default 64)")
      ->check(in_range(1U, kBytesMax))
      ->type_name("N");
  app.add_flag("--direct", options.direct,
               "No handshake: straight to the session, of a server without a mux");
  app.add_option("--close", flags.close, "How we close: fin or rst (default fin)")
      ->check(one_of({"fin", "rst"}))
      ->type_name("HOW");
}

void add_how_many(CLI::App& app, Options& options, Flags& flags) {
  CLI::Option* const connections =
      app.add_option("--connections", options.connections, "So many at once (default 64)")
          ->check(in_range(1U, kConnectionsMax))
          ->type_name("N");
  CLI::Option* const rate =
      app.add_option("--rate", options.rate,
                     "Open loop: so many new ones a second, at constant intervals")
          ->check(in_range(0.001, kRateMax))
          ->type_name("R");
  CLI::Option* const backlog =
      app.add_option("--backlog", flags.backlog,
                     "Capacity: so many wait, line sent, before a stopped server; with --stop")
          ->type_name("N")
          ->check(in_range(1U, kConnectionsMax))
          ->excludes(connections)
          ->excludes(rate);
  app.add_option("--stop", options.stop, "The server's process, to be stopped and continued")
      ->check(in_range(1, INT_MAX))
      ->needs(backlog)
      ->type_name("PID");
  CLI::Option* const duration =
      app.add_option("--duration", flags.duration_seconds, "Measured seconds (default 10)")
          ->check(in_range(0.001, kSecondsMax))
          ->excludes(backlog)
          ->type_name("S");
  CLI::Option* const count =
      app.add_option("--count", options.count, "Instead: so many connections")
          ->check(in_range(std::uint64_t{1}, kCountMax))
          ->excludes(duration)
          ->excludes(backlog)
          ->type_name("N");
  CLI::Option* const warm_up =
      app.add_option("--warm-up", options.warm_up_seconds, "Seconds before the measuring begins")
          ->check(in_range(0.0, kSecondsMax))
          ->excludes(backlog)
          ->type_name("S");
  app.add_flag("--hold", flags.hold,
               "With half or silent: keep them open until SIGTERM or --duration")
      ->excludes(rate)
      ->excludes(backlog)
      ->excludes(count)
      ->excludes(warm_up);
  app.add_option("--timeout", options.timeout_ms, "For a whole connection (default 10000)")
      ->check(in_range(std::int64_t{1}, std::int64_t{86'400'000}))
      ->type_name("MS");
}

void add_client(CLI::App& app, Options& options, Flags& flags) {
  app.add_option("--threads", options.threads, "One for each core (default 1)")
      ->check(in_range(1U, kThreadsMax))
      ->type_name("N");
  app.add_option("--pin", options.pin, "Cores for the threads, in turn")
      ->delimiter(',')
      ->check(in_range(0, CPU_SETSIZE - 1))
      ->allow_extra_args(false)
      ->type_name("CORE,...");
  app.add_option("--source-addresses", options.source_addresses,
                 "Spread over 127.0.0.1 and on (default 16; IPv4 only)")
      ->type_name("N")
      ->check(in_range(1U, kSourceAddressesMax));
  app.add_flag("--any-address", options.any_address, "Allow a target that is not this machine");
  app.add_option("--engine", flags.engine, "auto (default), io_uring or epoll")
      ->check(one_of({"auto", "io_uring", "epoll"}))
      ->type_name("ENGINE");
  app.add_option("--cpu-of", options.cpu_of, "A process whose cost is to be told; repeatable")
      ->check(in_range(1, INT_MAX))
      ->allow_extra_args(false)
      ->type_name("PID");
  app.add_flag("--json", options.json, "The summary as one JSON object");
  CLI::Option* const progress =
      app.add_flag("--progress", flags.progress, "A live line on stderr; default: on a terminal");
  app.add_flag("--no-progress", flags.no_progress, "No live line")->excludes(progress);
}

// Each gives a sentence for a person where something is wrong, else nothing.

std::string read_target(Options& options, const Flags& flags) {
  const auto target = tcpmux::parse_endpoint(flags.target);
  if (!target) return target.error().message;
  if (target->port == 0) return "port 0 is nobody's: give the port that the server listens on";
  if (!options.any_address && !is_loopback(target->address))
    return tcpmux::to_string(target->address) +
           " is not this machine; if that server may be loaded, add --any-address";
  options.target = *target;
  return "";
}

std::string read_kinds(Options& options, const Flags& flags) {
  if (options.service.empty() || options.service.size() > kServiceBytesMax ||
      options.service.find_first_of("\r\n") != std::string::npos)
    return "--service wants 1 to 255 bytes without a line end";
  if (flags.kinds.empty()) {
    options.kinds = KindMix(options.direct ? Kind::kSession : Kind::kHandshake);
    return "";
  }
  const auto kinds = KindMix::parse(flags.kinds);
  if (!kinds) return "--kind: " + kinds.error().message;
  options.kinds = *kinds;
  if (!options.direct) return "";
  for (const Kind kind : {Kind::kUnknown, Kind::kHelp, Kind::kTrickle, Kind::kHalf, Kind::kSilent})
    if (kinds->has(kind))
      return "--direct knows no '" + std::string(to_string(kind)) +
             "': there is no line; use session, early, or handshake (which only connects)";
  return "";
}

std::string read_mode(Options& options, const Flags& flags) {
  const bool timed = flags.duration_seconds > 0;
  options.duration_seconds = timed ? flags.duration_seconds : kDurationDefault;
  if (options.count > 0) options.duration_seconds = 0;
  if (options.rate > 0) options.mode = Mode::kOpen;
  if (flags.hold) {
    options.mode = Mode::kHold;
    if (!timed) options.duration_seconds = 0;
    if (!options.kinds.has_only(Kind::kHalf) && !options.kinds.has_only(Kind::kSilent))
      return "--hold keeps what waits: add --kind half or --kind silent";
  }
  if (flags.backlog > 0) {
    options.mode = Mode::kBacklog;
    options.connections = flags.backlog;
    if (options.stop == 0)
      return "--backlog needs the server's process: --stop PID, to be stopped and continued";
    if (!options.kinds.has_only(Kind::kHandshake) || options.direct)
      return "--backlog is for handshakes: leave --kind and --direct out";
    if (options.threads != 1) return "--backlog is the work of one thread: leave --threads out";
  }
  if (options.threads > options.connections)
    return "--threads is more than --connections: each thread needs a connection";
  return "";
}

std::string read(Options& options, const Flags& flags) {
  for (const auto step : {read_target, read_kinds, read_mode})
    if (std::string wrong = step(options, flags); !wrong.empty()) return wrong;
  options.reset = flags.close == "rst";
  if (flags.engine != "auto")
    options.engine = flags.engine == "epoll" ? Engine::kEpoll : Engine::kUring;
  if (flags.progress || flags.no_progress) options.progress = flags.progress;
  return "";
}

int complain(const std::string& what) {
  std::cerr << "tcpmux-load: " << what << "\nTry 'tcpmux-load --help'.\n";
  return kExitCannotRun;
}

}  // namespace

ParsedOptions parse_options(int argc, const char* const* argv) {
  ParsedOptions parsed;
  Flags flags;
  CLI::App app(kDescription, "tcpmux-load");
  app.footer(kFooter);
  app.formatter(std::make_shared<Formatter>());
  app.get_formatter()->column_width(34);
  app.set_help_flag("--help,-h", "Print this and exit");
  app.set_version_flag("--version", std::string("tcpmux-load ") + TCPMUX_VERSION,
                       "Print the version and exit");
  add_what(app, parsed.options, flags);
  add_how_many(app, parsed.options, flags);
  add_client(app, parsed.options, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& wish) {  // --help, --version
    parsed.exit_code = app.exit(wish, std::cout, std::cerr);
    return parsed;
  } catch (const CLI::ParseError& error) {
    parsed.exit_code = complain(error.what());
    return parsed;
  }
  if (const std::string wrong = read(parsed.options, flags); !wrong.empty())
    parsed.exit_code = complain(wrong);
  return parsed;
}

}  // namespace load
