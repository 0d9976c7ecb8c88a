// tcpmux-load's command line: what it means, and what it says of mistakes.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tools/load/options.h"

namespace load {
namespace {

struct Parsed {
  ParsedOptions result;
  std::string complaint;
};

Parsed parse(std::vector<std::string> words) {
  std::vector<const char*> argv = {"tcpmux-load"};
  for (const std::string& word : words)
    argv.push_back(word.c_str());
  testing::internal::CaptureStderr();
  Parsed parsed{.result = parse_options(static_cast<int>(argv.size()), argv.data()),
                .complaint = ""};
  parsed.complaint = testing::internal::GetCapturedStderr();
  return parsed;
}

Options good(std::vector<std::string> words) {
  words.push_back("127.0.0.1:4001");
  const Parsed parsed = parse(std::move(words));
  EXPECT_FALSE(parsed.result.exit_code) << parsed.complaint;
  return parsed.result.options;
}

// What is wrong, in a line, with where to read on.
void expect_refused(std::vector<std::string> words, const std::string& why) {
  const Parsed parsed = parse(std::move(words));
  EXPECT_EQ(parsed.result.exit_code, kExitCannotRun);
  EXPECT_NE(parsed.complaint.find(why), std::string::npos) << parsed.complaint;
  EXPECT_TRUE(parsed.complaint.starts_with("tcpmux-load: ")) << parsed.complaint;
  EXPECT_TRUE(parsed.complaint.ends_with("Try 'tcpmux-load --help'.\n")) << parsed.complaint;
}

void expect_refused_here(std::vector<std::string> words, const std::string& why) {
  words.push_back("127.0.0.1:4001");
  expect_refused(std::move(words), why);
}

TEST(LoadOptions, TheDefaults) {
  const Options options = good({});
  EXPECT_EQ(tcpmux::to_string(options.target), "127.0.0.1:4001");
  EXPECT_EQ(options.mode, Mode::kClosed);
  EXPECT_EQ(options.service, "echo");
  EXPECT_EQ(options.expect, "");
  EXPECT_TRUE(options.kinds.has_only(Kind::kHandshake));
  EXPECT_EQ(options.connections, 64u);
  EXPECT_EQ(options.duration_seconds, 10);
  EXPECT_EQ(options.count, 0u);
  EXPECT_EQ(options.messages, 10u);
  EXPECT_EQ(options.bytes, 64u);
  EXPECT_EQ(options.timeout_ms, 10'000);
  EXPECT_EQ(options.source_addresses, 16u);
  EXPECT_EQ(options.threads, 1u);
  EXPECT_EQ(options.engine, Engine::kAuto);
  EXPECT_FALSE(options.reset || options.direct || options.json || options.progress);
}

TEST(LoadOptions, EachFlagHasItsPlace) {
  const Options options = good({"--service",  "chat",      "--expect",
                                "+hi",        "--kind",    "session=2,early",
                                "--messages", "7",         "--bytes",
                                "99",         "--rate",    "12.5",
                                "--duration", "2.5",       "--connections",
                                "33",         "--warm-up", "0.5",
                                "--timeout",  "77",        "--source-addresses",
                                "3",          "--close",   "rst",
                                "--threads",  "2",         "--pin",
                                "0,1",        "--engine",  "epoll",
                                "--cpu-of",   "11",        "--cpu-of",
                                "12",         "--json",    "--progress"});
  EXPECT_EQ(options.mode, Mode::kOpen);
  EXPECT_EQ(options.service, "chat");
  EXPECT_EQ(options.expect, "+hi");
  EXPECT_EQ(options.kinds.text(), "session=2,early=1");
  EXPECT_EQ(options.messages, 7u);
  EXPECT_EQ(options.bytes, 99u);
  EXPECT_EQ(options.rate, 12.5);
  EXPECT_EQ(options.duration_seconds, 2.5);
  EXPECT_EQ(options.connections, 33u);
  EXPECT_EQ(options.warm_up_seconds, 0.5);
  EXPECT_EQ(options.timeout_ms, 77);
  EXPECT_EQ(options.source_addresses, 3u);
  EXPECT_TRUE(options.reset);
  EXPECT_EQ(options.threads, 2u);
  EXPECT_EQ(options.pin, (std::vector<int>{0, 1}));
  EXPECT_EQ(options.engine, Engine::kEpoll);
  EXPECT_EQ(options.cpu_of, (std::vector<pid_t>{11, 12}));
  EXPECT_TRUE(options.json);
  EXPECT_EQ(options.progress, true);
  EXPECT_EQ(good({"--no-progress"}).progress, false);
  EXPECT_EQ(good({"--engine", "io_uring"}).engine, Engine::kUring);
}

TEST(LoadOptions, ACountStandsInPlaceOfADuration) {
  const Options options = good({"--count", "5"});
  EXPECT_EQ(options.count, 5u);
  EXPECT_EQ(options.duration_seconds, 0);
  expect_refused_here({"--count", "5", "--duration", "1"}, "excludes");
}

TEST(LoadOptions, ABacklogNeedsAProcessToStop) {
  const Options options = good({"--backlog", "300", "--stop", "12"});
  EXPECT_EQ(options.mode, Mode::kBacklog);
  EXPECT_EQ(options.connections, 300u);
  EXPECT_EQ(options.stop, 12);
  expect_refused_here({"--backlog", "300"}, "--stop PID");
  expect_refused_here({"--stop", "12"}, "--backlog");
  expect_refused_here({"--backlog", "300", "--stop", "12", "--kind", "help"}, "handshakes");
  expect_refused_here({"--backlog", "300", "--stop", "12", "--rate", "5"}, "excludes");
}

TEST(LoadOptions, HoldingIsForWhoWaits) {
  const Options options = good({"--hold", "--kind", "half"});
  EXPECT_EQ(options.mode, Mode::kHold);
  EXPECT_EQ(options.duration_seconds, 0) << "until it is told to end";
  EXPECT_EQ(good({"--hold", "--kind", "silent", "--duration", "3"}).duration_seconds, 3);
  expect_refused_here({"--hold"}, "--kind half or --kind silent");
  expect_refused_here({"--hold", "--kind", "half,silent"}, "--kind half or --kind silent");
}

TEST(LoadOptions, DirectMeansSessions) {
  EXPECT_TRUE(good({"--direct"}).kinds.has_only(Kind::kSession));
  EXPECT_TRUE(good({"--direct", "--kind", "early"}).kinds.has_only(Kind::kEarly));
  expect_refused_here({"--direct", "--kind", "help"}, "--direct knows no 'help'");
}

TEST(LoadOptions, OnlyThisMachineUnlessAsked) {
  EXPECT_FALSE(parse({"127.9.9.9:1"}).result.exit_code);
  EXPECT_FALSE(parse({"[::1]:4001"}).result.exit_code);
  EXPECT_FALSE(parse({"192.0.2.1:4001", "--any-address"}).result.exit_code);
  expect_refused({"192.0.2.1:4001"}, "--any-address");
  expect_refused({"[2001:db8::1]:4001"}, "--any-address");
}

TEST(LoadOptions, MistakesAreExplained) {
  expect_refused({}, "target");
  expect_refused({"localhost:4001"}, "localhost");
  expect_refused({"127.0.0.1"}, "127.0.0.1");
  expect_refused({"127.0.0.1:0"}, "port 0");
  expect_refused_here({"--kind", "sesion"}, "'sesion' is no kind");
  expect_refused_here({"--close", "gently"}, "fin,rst");
  expect_refused_here({"--engine", "kqueue"}, "io_uring");
  expect_refused_here({"--service", ""}, "--service");
  expect_refused_here({"--service", "a\nb"}, "--service");
  expect_refused_here({"--connections", "0"}, "--connections");
  expect_refused_here({"--threads", "3", "--connections", "2"}, "--threads");
  expect_refused_here({"--conections", "5"}, "--conections");
}

TEST(LoadOptions, HelpGoesToStdoutAndIsNoMistake) {
  testing::internal::CaptureStdout();
  const Parsed parsed = parse({"--help"});
  const std::string help = testing::internal::GetCapturedStdout();
  EXPECT_EQ(parsed.result.exit_code, 0);
  EXPECT_NE(help.find("Examples:"), std::string::npos);
  EXPECT_NE(help.find("--source-addresses"), std::string::npos);
}

}  // namespace
}  // namespace load
