#include "core/server/config.h"

#include <fcntl.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <utility>

#include "core/base/fd.h"
#include "core/server/config_reader.h"
#include "core/server/config_services.h"
#include "core/server/control_path.h"
#include "core/server/toml_guard.h"

namespace tcpmux {
namespace {

constexpr std::size_t kRegistryPathBytesMax = sizeof(sockaddr_un::sun_path) - 1;  // a NUL ends it
constexpr std::size_t kConfigBytesMax = std::size_t{1} << 28;
constexpr NumberRange kMilliseconds = {1, 3'600'000};
constexpr std::string_view kListenExample = "[\"0.0.0.0:1\", \"[::]:1\"]";

std::vector<Endpoint> default_listen() {
  IpAddress v4{.family = IpAddress::Family::kV4};
  IpAddress v6{.family = IpAddress::Family::kV6};
  return {{v4, 1}, {v6, 1}};
}

// The addresses of one list, from the file or from flags.
class ListenList {
 public:
  // What is wrong with `text`, or nothing.
  std::optional<std::string> add(const std::string& text) {
    // The parser of addresses takes C strings, so it would not see what stands behind a NUL.
    if (text.find('\0') != std::string::npos) return quoted(text) + " has a NUL in it";
    const Result<Endpoint> endpoint = parse_endpoint(text);
    if (!endpoint) return endpoint.error().message;
    const bool is_new = seen_.insert(*endpoint).second;
    endpoints_.push_back(*endpoint);
    // Port 0 lets the kernel choose, each time another.
    if (is_new || endpoint->port == 0) return std::nullopt;
    return to_string(*endpoint) + " stands in the list twice; take one out";
  }
  void move_to(Config& config) {
    config.listen = std::move(endpoints_);
    config.listen_is_default = false;
  }

 private:
  std::vector<Endpoint> endpoints_;
  std::set<Endpoint> seen_;
};

std::string too_many_addresses(std::size_t count) {
  return std::to_string(count) + " addresses to listen on; there are at most " +
         std::to_string(kListenMax);
}

std::optional<std::string> why_not_a_socket_path(std::string_view path, std::size_t bytes_max,
                                                 std::string_view example) {
  const std::string name = quoted(path);
  if (!path.starts_with('/'))
    return name + " is not an absolute path; write one as " + std::string(example);
  if (path.ends_with('/')) return name + " is a directory; name a socket in it";
  if (path.find('\0') != std::string_view::npos) return name + " has a NUL in it";
  if (path.size() > bytes_max)
    return name + " has " + std::to_string(path.size()) +
           " bytes; the path of this Unix socket has at most " + std::to_string(bytes_max);
  return std::nullopt;
}

std::optional<std::string> why_not_a_registry_path(std::string_view path) {
  return why_not_a_socket_path(path, kRegistryPathBytesMax, "/run/tcpmux/registry.sock");
}

std::optional<std::string> why_not_a_control_path(std::string_view path) {
  if (path.empty()) return std::nullopt;
  return why_not_a_socket_path(path, control_path_bytes_max(),
                               "/run/tcpmux/registry.control.sock, or \"\" for none");
}

// `may_be_empty`: flags name the addresses.
void read_listen(TableReader& top, Config& config, bool may_be_empty) {
  const auto list = top.read_strings("listen", kListenExample);
  if (!list) return;
  ListenList listen;
  for (const auto& [text, place] : list->strings)
    if (const auto wrong = listen.add(text)) top.complaints().add(place, "listen: " + *wrong);
  listen.move_to(config);
  if (list->length > kListenMax)
    top.complaints().add(list->place, "listen: " + too_many_addresses(list->length));
  if (list->length == 0 && !may_be_empty)
    top.complaints().add(list->place, "listen is empty; name an address, as in listen = " +
                                          std::string(kListenExample) + ", or leave the key out");
}

void read_registry(Reading& reading, const toml::table* values, Config::Registry& to) {
  TableReader table(reading, values, "registry", "registry");
  if (auto path = table.read_string("path", "\"/run/tcpmux/registry.sock\"")) {
    if (const auto why = why_not_a_registry_path(path->value))
      reading.complaints.add(path->place, "registry.path: " + *why);
    to.path = std::move(path->value);
  }
  table.read("open", to.open);
  table.read_users("users", to.users);
  table.read_groups("groups", to.groups);
  table.check_unknown_keys();
}

void read_control(Reading& reading, const toml::table* values, Config::Control& to) {
  TableReader table(reading, values, "control", "control");
  if (auto path = table.read_string("path", "\"/run/tcpmux/registry.control.sock\"")) {
    if (const auto why = why_not_a_control_path(path->value))
      reading.complaints.add(path->place, "control.path: " + *why);
    to.path = std::move(path->value);
  }
  table.check_unknown_keys();
}

void read_handshake(Reading& reading, const toml::table* values, Config::Handshake& to) {
  TableReader table(reading, values, "handshake", "handshake");
  table.read("deadline_ms", to.deadline_ms, kMilliseconds);
  table.read("line_bytes_max", to.line_bytes_max, {16, 65'536});
  table.read("connections_per_shard_max", to.connections_per_shard_max, {1, 1'000'000});
  table.read("defer_accept", to.defer_accept);
  table.check_unknown_keys();
}

void read_handoff(Reading& reading, const toml::table* values, Config::Handoff& to) {
  TableReader table(reading, values, "handoff", "handoff");
  table.read("window_max", to.window_max, {1, 16'384});
  table.read("stall_ms", to.stall_ms, kMilliseconds);
  table.read("deadline_ms", to.deadline_ms, kMilliseconds);
  table.read("room_wait_ms", to.room_wait_ms, kMilliseconds);
  table.check_unknown_keys();
}

void read_help(Reading& reading, const toml::table* values, bool& enabled) {
  TableReader table(reading, values, "help", "help");
  table.read("enabled", enabled);
  table.check_unknown_keys();
}

Config read_all(Reading& reading, const toml::table& file, bool listen_may_be_empty) {
  Config config;
  config.listen = default_listen();
  TableReader top(reading, &file, "", "");
  read_listen(top, config, listen_may_be_empty);
  top.read("shards", config.shards, {0, kShardsMax});
  if (const auto index = top.read_word("engine", kEngineNames))
    config.engine = static_cast<EngineChoice>(*index);
  if (const auto index = top.read_word("log_level", kLogLevelNames))
    config.log_level = static_cast<LogLevel>(*index);
  read_registry(reading, top.read_table("registry"), config.registry);
  read_control(reading, top.read_table("control"), config.control);
  read_handshake(reading, top.read_table("handshake"), config.handshake);
  read_handoff(reading, top.read_table("handoff"), config.handoff);
  read_help(reading, top.read_table("help"), config.help_enabled);
  config.services =
      read_services(reading, top.read_table("services"), config.handshake.line_bytes_max);
  top.check_unknown_keys();
  reading.complain_of_unknown_keys();
  return config;
}

Result<Config> read_text(std::string_view toml, const std::string& source,
                         bool listen_may_be_empty) {
  Reading reading(source);
  if (const auto place = find_deep_key(toml)) {
    reading.complaints.add(*place, "a key has more than " + std::to_string(kKeyPartsMax) +
                                       " parts; those of tcpmuxd have three at most");
    return fail(reading.complaints.joined());
  }
  Config config;
  try {
    config = read_all(reading, toml::parse(toml, source), listen_may_be_empty);
  } catch (const toml::parse_error& error) {
    const toml::source_position at = error.source().begin;
    reading.complaints.add({at.line, at.column}, error.description());
  }
  if (!reading.complaints.empty()) return fail(reading.complaints.joined());
  return config;
}

Result<std::string> read_file(const std::string& path) {
  const std::string what = "cannot read the configuration file " + quoted(path);
  const OwnFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return fail_errno(what);
  std::string text;
  std::vector<char> buffer(std::size_t{1} << 16);
  for (;;) {
    const ssize_t count = ::read(file.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail_errno(what);
    if (count == 0) return text;
    text.append(buffer.data(), static_cast<std::size_t>(count));
    if (text.size() > kConfigBytesMax)
      return fail(what + ": it has more than " + std::to_string(kConfigBytesMax) + " bytes");
  }
}

void apply_listen_flags(const std::vector<std::string>& texts, Config& config,
                        std::vector<std::string>& wrong) {
  if (texts.empty()) return;
  ListenList listen;
  for (const std::string& text : texts)
    if (const auto why = listen.add(text)) wrong.push_back("--listen: " + *why);
  listen.move_to(config);
  if (texts.size() > kListenMax) wrong.push_back("--listen: " + too_many_addresses(texts.size()));
}

// What is wrong with the flags, each with the flag's name.
std::vector<std::string> apply_flags(const CommandLine& options, Config& config) {
  std::vector<std::string> wrong;
  apply_listen_flags(options.listen, config, wrong);
  if (options.registry_path) {
    if (const auto why = why_not_a_registry_path(*options.registry_path))
      wrong.push_back("--registry: " + *why);
    config.registry.path = *options.registry_path;
  }
  if (options.control_path) {
    if (const auto why = why_not_a_control_path(*options.control_path))
      wrong.push_back("--control: " + *why);
    config.control.path = *options.control_path;
  }
  if (options.shards && *options.shards > kShardsMax)
    wrong.push_back("--shards: " + std::to_string(*options.shards) +
                    " is out of range; it is from 0 to " + std::to_string(kShardsMax));
  config.shards = options.shards.value_or(config.shards);
  config.engine = options.engine.value_or(config.engine);
  config.log_level = options.log_level.value_or(config.log_level);
  return wrong;
}

// What only file and flags together can get wrong.
std::optional<std::string> why_not_together(const Config& config) {
  const std::string control = config.control_path();
  if (control == config.registry.path)
    return "control.path and registry.path are both " + quoted(control) +
           "; they are two sockets: give each a path of its own";
  if (const auto why = why_not_a_control_path(control))
    return "control.path, which follows registry.path: " + *why + "; name another (--control)";
  return std::nullopt;
}

}  // namespace

std::string Config::control_path() const {
  return control.path ? *control.path : control_path_beside(registry.path);
}

Result<Config> parse_config(std::string_view toml, const std::string& source) {
  return read_text(toml, source, false);
}

Result<Config> load_config(const CommandLine& options) {
  std::string text;
  if (options.config_path) {
    Result<std::string> read = read_file(*options.config_path);
    if (!read) return std::unexpected(read.error());
    text = *std::move(read);
  }
  Result<Config> config = read_text(text, options.config_path.value_or("defaults"),
                                    /*listen_may_be_empty=*/!options.listen.empty());
  Config unread;  // where the file is wrong, the flags are still checked
  const std::vector<std::string> wrong = apply_flags(options, config ? *config : unread);
  if (wrong.empty() && config)
    if (const auto why = why_not_together(*config)) return fail(printable(*why));
  if (wrong.empty()) return config;
  std::string message = config ? "" : config.error().message;
  for (const std::string& line : wrong)
    message += (message.empty() ? "" : "\n") + printable(line);
  return fail(message);
}

}  // namespace tcpmux
