// The configuration file: what is read, and everything that is refused, with its place and with
// advice.
#include "core/server/config.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "tests/unit/config_support.h"

namespace tcpmux {
namespace {

TEST(Config, AnEmptyFileIsTheDefaults) {
  const Config config = parsed("");
  EXPECT_EQ(config.listen, endpoints({"0.0.0.0:1", "[::]:1"}));
  EXPECT_TRUE(config.listen_is_default);
  expect_same_scalars(config, Config{});
  EXPECT_EQ(config.services.size(), 0u);
}

TEST(Config, ReadsEveryKey) {
  const Config config = parsed(R"(
    listen = ["127.0.0.1:4000", "[::1]:4000"]
    shards = 64
    engine = "epoll"
    log_level = "off"
    [registry]
    path = "/tmp/r"
    open = true
    users = [7, "root"]
    groups = ["root", 4294967294]
    [control]
    path = "/tmp/c"
    [handshake]
    deadline_ms = 1
    line_bytes_max = 65536
    connections_per_shard_max = 1_000_000
    defer_accept = false
    [handoff]
    window_max = 16384
    stall_ms = 3600000
    deadline_ms = 3
    room_wait_ms = 4
    [help]
    enabled = false
    [services.Zulu]
    message = "grüß dich"
    hidden = true
    allow = ["10.0.0.0/8"]
    deny = ["10.1.0.0/16"]
    users = [1000]
    coalesce_reply = true
    [services."git+ssh/1.0"]
  )");
  EXPECT_EQ(config.listen, endpoints({"127.0.0.1:4000", "[::1]:4000"}));
  EXPECT_FALSE(config.listen_is_default);
  EXPECT_EQ(config.shards, 64u);
  EXPECT_EQ(config.engine, EngineChoice::kEpoll);
  EXPECT_EQ(config.log_level, LogLevel::kOff);
  EXPECT_EQ(config.registry.path, "/tmp/r");
  EXPECT_TRUE(config.registry.open);
  EXPECT_EQ(config.registry.users, (std::vector<uid_t>{7, 0}));
  EXPECT_EQ(config.registry.groups, (std::vector<gid_t>{0, 4294967294}));
  EXPECT_EQ(config.control_path(), "/tmp/c");
  EXPECT_EQ(config.handshake.deadline_ms, 1u);
  EXPECT_EQ(config.handshake.line_bytes_max, 65536u);
  EXPECT_EQ(config.handshake.connections_per_shard_max, 1'000'000u);
  EXPECT_FALSE(config.handshake.defer_accept);
  EXPECT_EQ(config.handoff.window_max, 16384u);
  EXPECT_EQ(config.handoff.stall_ms, 3'600'000u);
  EXPECT_EQ(config.handoff.deadline_ms, 3u);
  EXPECT_EQ(config.handoff.room_wait_ms, 4u);
  EXPECT_FALSE(config.help_enabled);
  ASSERT_EQ(config.services.size(), 2u);
  const Service& zulu = config.services[0];
  EXPECT_EQ(zulu.name, "Zulu") << "ids are in the order of the file";
  EXPECT_EQ(zulu.message, "grüß dich");
  EXPECT_TRUE(zulu.hidden);
  EXPECT_TRUE(zulu.coalesce_reply);
  EXPECT_TRUE(zulu.configured);
  EXPECT_EQ(zulu.users, (std::vector<uid_t>{1000}));
  EXPECT_TRUE(zulu.access.allows(parse_ip_address("10.2.0.0").value()));
  EXPECT_FALSE(zulu.access.allows(parse_ip_address("10.1.0.0").value()));
  EXPECT_FALSE(zulu.access.allows(parse_ip_address("192.0.2.1").value()));
  EXPECT_EQ(config.services[1].name, "git+ssh/1.0");
  EXPECT_TRUE(config.services[1].access.everyone());
  EXPECT_FALSE(config.services[1].hidden);
}

TEST(Config, ReadsTheWordsInTheOrderOfTheEnums) {
  EXPECT_EQ(parsed("engine = 'auto'").engine, EngineChoice::kAuto);
  EXPECT_EQ(parsed("engine = 'io_uring'").engine, EngineChoice::kUring);
  EXPECT_EQ(parsed("engine = 'epoll'").engine, EngineChoice::kEpoll);
  EXPECT_EQ(parsed("log_level = 'debug'").log_level, LogLevel::kDebug);
  EXPECT_EQ(parsed("log_level = 'info'").log_level, LogLevel::kInfo);
  EXPECT_EQ(parsed("log_level = 'warning'").log_level, LogLevel::kWarning);
  EXPECT_EQ(parsed("log_level = 'error'").log_level, LogLevel::kError);
  EXPECT_EQ(parsed("log_level = 'off'").log_level, LogLevel::kOff);
}

TEST(Config, AcceptsWhatLooksLikeAClashAndIsNone) {
  EXPECT_EQ(parsed("listen = ['127.0.0.1:0', '127.0.0.1:0']").listen.size(), 2u);
  EXPECT_EQ(parsed("listen = ['127.0.0.1:1', '127.0.0.1:2', '127.0.0.2:1']").listen.size(), 3u);
  EXPECT_EQ(parsed("[services]\necho = {}\necho2 = {}").services.size(), 2u);
  parsed("services.a.allow = ['10.0.0.0/8']\nservices.a.deny = ['10.0.0.0/9']");
  parsed("services.a.allow = ['10.0.0.0/8']\nservices.b.deny = ['10.0.0.0/8']");
  parsed("handshake.line_bytes_max = 16\nservices.fourteen_bytes = {}");
  parsed("services.a.message = '" + std::string(512, 'm') + "'");
  parsed("registry.path = '/" + std::string(106, 'p') + "'");
}

TEST(Config, TheControlSocketIsBesideTheRegistry) {
  EXPECT_EQ(Config{}.control_path(), "/run/tcpmux/registry.control.sock");
  EXPECT_EQ(parsed("registry.path = '/a/b.sock'").control_path(), "/a/b.control.sock");
  EXPECT_EQ(parsed("registry.path = '/a/b'").control_path(), "/a/b.control.sock");
  EXPECT_EQ(parsed("registry.path = '/a/b.sock'\ncontrol.path = '/c'").control_path(), "/c");
  EXPECT_EQ(parsed("control.path = ''").control_path(), "") << "none is wanted";
}

// ---- What is refused

TEST(ConfigRefuses, UnknownKeys) {
  for (const Refusal& refusal : std::vector<Refusal>{
           {"shard = 3", "1:1", {"unknown key 'shard'", "did you mean 'shards'?"}},
           {"[handshake]\ndeadline-ms = 3",
            "2:1",
            {"in [handshake]", "did you mean 'deadline_ms'"}},
           {"[handshake]\n  dedaline_ms = 3", "2:3", {"did you mean 'deadline_ms'?"}},
           {"[handoff]\nwindow = 3", "2:1", {"did you mean 'window_max'?"}},
           {"[services.a]\nhiden = true", "2:1", {"in [services.a]", "did you mean 'hidden'?"}},
           {"[help]\nzzz = 3", "2:1", {"unknown key 'zzz'", "the keys known here: enabled"}},
           {"xyzzy = 1",
            "1:1",
            {"the keys known here: control, engine, handoff, handshake, help, listen, log_level, "
             "registry, "
             "services, shards"}},
           {"[xyzzy]\na = 1\nb = 2", "1:2", {"unknown key 'xyzzy'"}},
           {"xyzzy.a.b = 1", "1:1", {"unknown key 'xyzzy'"}},
           {"[[xyzzy]]", "1:3", {"unknown key 'xyzzy'"}},
           {"[registry]\nlisten = ['1.2.3.4:5']", "2:1", {"at the top of the file"}},
           {"deadline_ms = 1", "1:1", {"it stands under [handoff] or under [handshake]"}},
           {"hidden = true", "1:1", {"it stands under [services.NAME]"}},
           {"[handshake.registry]", "1:12", {"a section of its own: write [registry]"}},
           {"'' = 1", "1:1", {"unknown key ''"}},
           {"\"a\\nb\\u001b\" = 1", "1:1", {"unknown key 'a\\x0Ab\\x1B'"}},
       })
    expect_refused(refusal);
}

TEST(ConfigRefuses, WrongTypes) {
  for (const Refusal& refusal : std::vector<Refusal>{
           {"shards = '3'", "1:10", {"shards must be a whole number, not a string", "shards = 0"}},
           {"shards = 3.0", "1:10", {"not a floating-point number"}},
           {"shards = true", "1:10", {"not a boolean"}},
           {"shards = 1979-05-27", "1:10", {"not a date"}},
           {"shards = 07:32:00", "1:10", {"not a time"}},
           {"shards = 1979-05-27T07:32:00Z", "1:10", {"not a date with a time"}},
           {"engine = 3", "1:10", {"engine must be a string", "engine = \"auto\""}},
           {"listen = '1.2.3.4:5'", "1:10", {"must be a list, not a string", "listen = [\"0.0"}},
           {"listen = [5]", "1:11", {"must be a list of strings, not a whole number"}},
           {"registry = '/run/x'", "1:12", {"must be a table, not a string", "[registry]"}},
           {"[[handshake]]", "1:1", {"handshake must be a table, not a list"}},
           {"registry.path = 3", "1:17", {"must be a string", "path = \"/run/tcpmux"}},
           {"registry.open = 'yes'", "1:17", {"must be true or false", "open = false"}},
           {"registry.users = 'root'", "1:18", {"registry.users must be a list"}},
           {"registry.users = [[0]]", "1:19", {"must be a list of names and numbers"}},
           {"handshake.deadline_ms = '10s'", "1:25", {"whole number", "deadline_ms = 10000"}},
           {"handshake.defer_accept = 1", "1:26", {"defer_accept = true"}},
           {"services = []", "1:12", {"services must be a table"}},
           {"services.a = 3", "1:14", {"services.a must be a table", "[services.a]"}},
           {"services.a.message = 3", "1:22", {"services.a.message must be a string"}},
           {"services.a.hidden = 0", "1:21", {"services.a.hidden must be true or false"}},
           {"services.a.allow = '::1'", "1:20", {"services.a.allow must be a list"}},
           {"services.a.deny = [1]", "1:20", {"must be a list of strings", "10.0.0.0/8"}},
       })
    expect_refused(refusal);
}

TEST(ConfigRefuses, NumbersOutOfRange) {
  const struct {
    const char* key;
    std::int64_t least;
    std::int64_t most;
  } cases[] = {
      {"shards", 0, 64},
      {"handshake.deadline_ms", 1, 3'600'000},
      {"handshake.line_bytes_max", 16, 65'536},
      {"handshake.connections_per_shard_max", 1, 1'000'000},
      {"handoff.window_max", 1, 16'384},
      {"handoff.stall_ms", 1, 3'600'000},
      {"handoff.deadline_ms", 1, 3'600'000},
      {"handoff.room_wait_ms", 1, 3'600'000},
  };
  for (const auto& [key, least, most] : cases) {
    const std::string start = std::string(key) + " = ";
    const std::string range = "from " + std::to_string(least) + " to " + std::to_string(most);
    for (const std::int64_t wrong :
         {least - 1, most + 1, INT64_MIN, INT64_MAX, std::int64_t{1} << 32})
      expect_refused({start + std::to_string(wrong),
                      "1:" + std::to_string(start.size() + 1),
                      {key, "out of range", range.c_str()}});
    for (const std::int64_t right : {least, most})
      parsed(start + std::to_string(right));
  }
}

TEST(ConfigRefuses, BadWords) {
  for (const Refusal& refusal : std::vector<Refusal>{
           {"engine = 'uring'", "1:10", {"auto, io_uring or epoll, not 'uring'"}},
           {"engine = 'iouring'", "1:10", {"did you mean 'io_uring'?"}},
           {"engine = 'EPOLL'", "1:10", {"did you mean 'epoll'?"}},
           {"engine = ''", "1:10", {"must be auto"}},
           {"log_level = 'warn'", "1:13", {"debug, info, warning, error or off", "'warning'?"}},
       })
    expect_refused(refusal);
}

TEST(ConfigRefuses, BadAddressesAndPrefixes) {
  const std::string many_addresses = [] {
    std::string list;
    for (int i = 1; i <= 65; ++i)
      list += "'127.0.0.1:" + std::to_string(i) + "', ";
    return "listen = [" + list + "]";
  }();
  for (const Refusal& refusal : std::vector<Refusal>{
           {"listen = ['1.2.3.4']", "1:11", {"has no port", "write ADDRESS:PORT"}},
           {"listen = [\n'1.2.3.4:5',\n'localhost:5']", "3:1", {"'localhost:5'", "[::1]:4000"}},
           {"listen = ['::1:5']", "1:11", {"needs brackets"}},
           {"listen = [\"1.2.3.4\\u0000x:5\"]", "1:11", {"has a NUL", "\\x00"}},
           {"listen = []", "1:10", {"listen is empty", "leave the key out"}},
           {many_addresses, "1:10", {"65 addresses", "at most 64"}},
           {"services.a.allow = ['10.0.0.1/8']", "1:21", {"allow", "write 10.0.0.0/8"}},
           {"services.a.deny = ['example.org']", "1:20", {"deny", "write one as 10.0.0.0/8"}},
           {"services.a.deny = ['::/129']", "1:20", {"a length from 0 to 128"}},
       })
    expect_refused(refusal);
}

TEST(ConfigRefuses, Clashes) {
  for (const Refusal& refusal : std::vector<Refusal>{
           {"listen = ['1.2.3.4:5', '1.2.3.4:5']", "1:24", {"1.2.3.4:5 stands in the list twice"}},
           {"listen = ['1.2.3.4:5', '[::ffff:1.2.3.4]:5']", "1:24", {"twice"}},
           {"listen = ['[::1]:5', '[0::1]:5']", "1:22", {"[::1]:5 stands in the list twice"}},
           {"[services.Echo]\n[services.chat]\n[services.eCHO]",
            "3:11",
            {"'eCHO' stands in line 1 already", "without case"}},
           {"[services.a]\nallow = ['::1', '10.0.0.0/8']\ndeny = ['10.0.0.0/8']",
            "3:9",
            {"10.0.0.0/8 is also allowed, in line 2"}},
           {"[services.a]\ndeny = ['::1/128']\nallow = ['::1']", "2:9", {"in line 3"}},
       })
    expect_refused(refusal);
}

TEST(ConfigRefuses, BadServices) {
  for (const Refusal& refusal : std::vector<Refusal>{
           {"[services.help]", "1:11", {"reserved by RFC 1078"}},
           {"[services.HELP]", "1:11", {"reserved by RFC 1078"}},
           {"[services.'']", "1:11", {"not empty"}},
           {"[services.'two words']", "1:11", {"visible ASCII"}},
           {"[services.'grüß']", "1:11", {"visible ASCII"}},
           {"[services.\"a\\u0000\"]", "1:11", {"'a\\x00'", "visible ASCII"}},
           {"handshake.line_bytes_max = 1024\n[services." + std::string(256, 'x') + "]",
            "2:11",
            {"at most 255 bytes; this one has 256"}},
           {"handshake.line_bytes_max = 16\n[services.fifteen_bytes__]",
            "2:11",
            {"request line has 17 bytes", "line_bytes_max = 16", "raise"}},
           {"services.a.message = \"a\\rb\"", "1:22", {"control character", "'a\\x0Db'"}},
           {"services.a.message = \"a\\nb\"", "1:22", {"control character", "'a\\x0Ab'"}},
           {"services.a.message = \"a\\u0000\"", "1:22", {"control character"}},
           {"services.a.message = \"\\u001b[31m\"", "1:22", {"control character"}},
           {"services.a.message = \"\\u007f\"", "1:22", {"control character"}},
           {"services.a.message = '" + std::string(513, 'm') + "'", "1:22", {"513", "at most 512"}},
       })
    expect_refused(refusal);
}

TEST(ConfigRefuses, BadUsersAndGroups) {
  for (const Refusal& refusal : std::vector<Refusal>{
           {"registry.users = ['no-such-user-here']",
            "1:19",
            {"there is no user 'no-such-user-here'", "a name that this machine knows"}},
           {"registry.groups = [0, 'no-such-group']", "1:23", {"there is no group"}},
           {"services.a.users = ['no-such-user-here']", "1:21", {"services.a.users"}},
           {"registry.users = [\"root\\u0000x\"]", "1:19", {"there is no user 'root\\x00x'"}},
           {"registry.users = ['']", "1:19", {"there is no user ''"}},
           {"registry.users = [-1]", "1:19", {"from 0 to 4294967294"}},
           {"registry.groups = [4294967295]", "1:20", {"number of a group is from 0"}},
       })
    expect_refused(refusal);
}

TEST(ConfigRefuses, BadRegistryPaths) {
  for (const Refusal& refusal : std::vector<Refusal>{
           {"registry.path = 'run/x'", "1:17", {"not an absolute path", "/run/tcpmux/"}},
           {"registry.path = ''", "1:17", {"not an absolute path"}},
           {"registry.path = '@abstract'", "1:17", {"not an absolute path"}},
           {"registry.path = '/run/'", "1:17", {"is a directory"}},
           {"registry.path = \"/run/\\u0000x\"", "1:17", {"has a NUL"}},
           {"registry.path = '/" + std::string(107, 'p') + "'",
            "1:17",
            {"has 108 bytes", "at most 107"}},
       })
    expect_refused(refusal);
}

TEST(ConfigRefuses, BadControlPaths) {
  for (const Refusal& refusal : std::vector<Refusal>{
           {"control.path = 'run/x'", "1:16", {"not an absolute path", "/run/tcpmux/", "for none"}},
           {"control.path = '/run/'", "1:16", {"is a directory"}},
           {"control.path = '/" + std::string(106, 'p') + "'",
            "1:16",
            {"has 107 bytes", "at most 106"}},
       })
    expect_refused(refusal);
}

TEST(ConfigRefuses, WhatIsNoToml) {
  for (const Refusal& refusal : std::vector<Refusal>{
           {"shards = ", "1:10", {}},
           {"shards = 1\nshards = 2", "2:7", {"redefine"}},
           {"\n[registry\npath = 1", "2:10", {"]"}},
           {"listen = ['a\n']", "1:13", {}},
           {"\xFF\xFE", "1:1", {"utf-8"}},
       }) {
    SCOPED_TRACE(refusal.toml);
    const std::string error = error_in(refusal.toml);
    EXPECT_EQ(lines_of(error).size(), 1u) << error;
    EXPECT_TRUE(error.starts_with("test.toml:" + refusal.place.substr(0, 2))) << error;
    for (const char* advice : refusal.advice)
      EXPECT_NE(error.find(advice), std::string::npos) << error;
  }
}

TEST(ConfigRefuses, EverythingAtOnceInTheOrderOfTheFile) {
  const std::string error = error_in(
      "shard = 1\n"
      "engine = 'x'\n"
      "[services.a]\n"
      "message = 3\n"
      "allow = ['x', 'y']\n"
      "[handshake]\n"
      "deadline_ms = 0\n"
      "typo = 1\n"
      "[registry]\n"
      "path = 'x'\n");
  const std::vector<std::string> lines = lines_of(error);
  const std::vector<std::string> places = {"1:1",  "2:10", "4:11", "5:10",
                                           "5:15", "7:15", "8:1",  "10:8"};
  ASSERT_EQ(lines.size(), places.size()) << error;
  for (std::size_t i = 0; i < lines.size(); ++i)
    EXPECT_TRUE(lines[i].starts_with("test.toml:" + places[i] + ": ")) << lines[i];
}

}  // namespace
}  // namespace tcpmux
