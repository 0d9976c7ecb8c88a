// The command line, and its flags over the file.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "core/server/config.h"
#include "tests/unit/config_support.h"

namespace tcpmux {
namespace {

namespace fs = std::filesystem;

// A directory of this run alone, removed at its end.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string path = (fs::temp_directory_path() / "tcpmux-config-XXXXXX").string();
    if (::mkdtemp(path.data()) == nullptr) std::abort();
    path_ = path;
  }
  ~TemporaryDirectory() { fs::remove_all(path_); }
  std::string path() const { return path_; }
  std::string write(const std::string& name, const std::string& text) const {
    const fs::path file = path_ / name;
    std::ofstream(file, std::ios::binary) << text;
    return file.string();
  }

 private:
  fs::path path_;
};

// ---- Flags over the file

TEST(LoadConfig, WithoutAnythingIsTheDefaults) {
  const Result<Config> config = load_config({});
  ASSERT_TRUE(config.has_value()) << error_of(config);
  expect_same_scalars(*config, Config{});
  EXPECT_TRUE(config->listen_is_default);
  EXPECT_EQ(config->listen.size(), 2u);
}

TEST(LoadConfig, FlagsOverrideTheFile) {
  const TemporaryDirectory directory;
  CommandLine options;
  options.config_path = directory.write("c.toml",
                                        "listen = ['1.2.3.4:5', '1.2.3.4:6']\n"
                                        "shards = 2\nengine = 'epoll'\nlog_level = 'error'\n"
                                        "registry.path = '/file'\nregistry.open = true\n");
  const Config file = load_config(options).value();
  EXPECT_EQ(file.listen, endpoints({"1.2.3.4:5", "1.2.3.4:6"}));
  EXPECT_EQ(file.shards, 2u);
  options.listen = {"[::1]:7"};
  options.shards = 0;
  options.engine = EngineChoice::kUring;
  options.log_level = LogLevel::kDebug;
  options.registry_path = "/flag";
  options.control_path = "/control";
  const Config both = load_config(options).value();
  EXPECT_EQ(both.listen, endpoints({"[::1]:7"}));
  EXPECT_FALSE(both.listen_is_default);
  EXPECT_EQ(both.shards, 0u);
  EXPECT_EQ(both.engine, EngineChoice::kUring);
  EXPECT_EQ(both.log_level, LogLevel::kDebug);
  EXPECT_EQ(both.registry.path, "/flag");
  EXPECT_EQ(both.control_path(), "/control");
  EXPECT_TRUE(both.registry.open);
}

TEST(LoadConfig, AnEmptyListIsGoodWhereFlagsGiveOne) {
  const TemporaryDirectory directory;
  CommandLine options;
  options.config_path = directory.write("c.toml", "listen = []\n");
  EXPECT_NE(error_of(load_config(options)).find("c.toml:1:10: listen is empty"), std::string::npos);
  options.listen = {"127.0.0.1:7"};
  EXPECT_EQ(load_config(options).value().listen, endpoints({"127.0.0.1:7"}));
}

TEST(LoadConfig, BadFlagsAreNamed) {
  CommandLine options;
  options.listen = {"127.0.0.1", "127.0.0.1:7", "127.0.0.1:7"};
  options.registry_path = "relative";
  options.control_path = "relative, too";
  options.shards = 65;
  const std::vector<std::string> lines = lines_of(error_of(load_config(options)));
  ASSERT_EQ(lines.size(), 5u);
  EXPECT_TRUE(lines[0].starts_with("--listen: '127.0.0.1' has no port")) << lines[0];
  EXPECT_TRUE(lines[1].starts_with("--listen: 127.0.0.1:7 stands in the list twice")) << lines[1];
  EXPECT_TRUE(lines[2].starts_with("--registry: 'relative' is not an absolute")) << lines[2];
  EXPECT_TRUE(lines[3].starts_with("--control: 'relative, too' is not an absolute")) << lines[3];
  EXPECT_TRUE(lines[4].starts_with("--shards: 65 is out of range")) << lines[4];
}

TEST(LoadConfig, BadFlagsAreNamedBesideABadFile) {
  const TemporaryDirectory directory;
  CommandLine options;
  options.config_path = directory.write("c.toml", "shards = 99\n");
  options.registry_path = std::string("/") + std::string(107, 'p');
  const std::vector<std::string> lines = lines_of(error_of(load_config(options)));
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_TRUE(lines[0].starts_with(*options.config_path + ":1:10: ")) << lines[0];
  EXPECT_TRUE(lines[1].starts_with("--registry: ")) << lines[1];
}

TEST(LoadConfig, TwoSocketsNeedTwoPaths) {
  CommandLine options;
  options.registry_path = "/same";
  options.control_path = "/same";
  EXPECT_NE(error_of(load_config(options)).find("are both '/same'"), std::string::npos);
}

TEST(LoadConfig, APathThatFollowsFromTheRegistrysMayBeTooLong) {
  CommandLine options;
  options.registry_path = "/" + std::string(100, 'p');
  const std::string error = error_of(load_config(options));
  EXPECT_NE(error.find("control.path, which follows registry.path"), std::string::npos) << error;
  EXPECT_NE(error.find("--control"), std::string::npos) << error;
  options.control_path = "";
  EXPECT_EQ(load_config(options).value().control_path(), "");
}

TEST(LoadConfig, AFileThatCannotBeReadSaysWhy) {
  const TemporaryDirectory directory;
  CommandLine options;
  options.config_path = directory.path() + "/absent.toml";
  const Result<Config> absent = load_config(options);
  ASSERT_FALSE(absent.has_value());
  EXPECT_EQ(absent.error().code, ENOENT);
  EXPECT_NE(absent.error().message.find("/absent.toml': No such file"), std::string::npos);
  options.config_path = directory.path();
  EXPECT_NE(error_of(load_config(options)).find("Is a directory"), std::string::npos);
}

TEST(LoadConfig, ReadsAFileOfAnyLength) {
  const TemporaryDirectory directory;
  std::string text;
  for (int i = 0; i < 20'000; ++i)
    text += "[services.s" + std::to_string(i) + "]\n";
  CommandLine options;
  options.config_path = directory.write("c.toml", text);
  const Config config = load_config(options).value();
  ASSERT_EQ(config.services.size(), 20'000u);
  EXPECT_EQ(config.services.find("S19999"), 19'999u);
}

// ---- The command line

struct Printed {
  ParsedCommandLine parsed;
  std::string out;
  std::string err;
};

Printed command_line(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "tcpmuxd");
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  Printed result;
  result.parsed = parse_command_line(static_cast<int>(arguments.size()), arguments.data());
  result.out = testing::internal::GetCapturedStdout();
  result.err = testing::internal::GetCapturedStderr();
  return result;
}

TEST(CommandLine, WithoutFlagsSaysNothing) {
  const Printed printed = command_line({});
  EXPECT_EQ(printed.parsed.exit_code, std::nullopt);
  const CommandLine& options = printed.parsed.options;
  EXPECT_FALSE(options.config_path || options.registry_path || options.control_path ||
               options.shards || options.engine || options.log_level || options.check_config);
  EXPECT_TRUE(options.listen.empty());
  EXPECT_EQ(printed.out + printed.err, "");
}

TEST(CommandLine, ReadsEveryFlag) {
  const CommandLine options =
      command_line({"--config", "/etc/c.toml", "--listen", "127.0.0.1:4", "--listen=[::1]:4",
                    "--registry", "/r", "--control", "/c", "--shards", "64", "--engine", "io_uring",
                    "--log-level", "error", "--check-config"})
          .parsed.options;
  EXPECT_EQ(options.config_path, "/etc/c.toml");
  EXPECT_EQ(options.listen, (std::vector<std::string>{"127.0.0.1:4", "[::1]:4"}));
  EXPECT_EQ(options.registry_path, "/r");
  EXPECT_EQ(options.control_path, "/c");
  EXPECT_EQ(options.shards, 64u);
  EXPECT_EQ(options.engine, EngineChoice::kUring);
  EXPECT_EQ(options.log_level, LogLevel::kError);
  EXPECT_TRUE(options.check_config);
}

TEST(CommandLine, HelpIsHelpful) {
  const Printed printed = command_line({"--help"});
  EXPECT_EQ(printed.parsed.exit_code, 0);
  for (const char* text : {"--config FILE", "--listen ADDR:PORT", "--registry PATH",
                           "--control PATH", "--shards N", "--engine", "auto, io_uring or epoll",
                           "--check-config", "--log-level", "debug, info, warning, error or off",
                           "--version", "--help", "Examples:", "tcpmuxd.example.toml"})
    EXPECT_NE(printed.out.find(text), std::string::npos) << text << " in\n" << printed.out;
  EXPECT_EQ(printed.err, "");
  for (const std::string& line : lines_of(printed.out))
    EXPECT_LE(line.size(), 100u) << line;
}

TEST(CommandLine, VersionIsThatOfTheProject) {
  const Printed printed = command_line({"--version"});
  EXPECT_EQ(printed.parsed.exit_code, 0);
  EXPECT_EQ(printed.out, "tcpmuxd " TCPMUX_VERSION "\n");
}

TEST(CommandLine, RefusesWrongArguments) {
  const struct {
    std::vector<const char*> arguments;
    const char* reason;
  } cases[] = {
      {{"--shards", "65"}, "--shards: '65' is not a whole number from 0 to 64"},
      {{"--shards", "-1"}, "--shards: '-1' is not a whole number"},
      {{"--shards", "two"}, "--shards: 'two' is not a whole number"},
      {{"--shards", "1.5"}, "--shards: '1.5' is not a whole number"},
      {{"--shards", "1", "--shards", "2"}, "--shards"},
      {{"--engine", "kqueue"}, "--engine: 'kqueue' is not auto, io_uring or epoll"},
      {{"--engine", "Epoll"}, "did you mean 'epoll'?"},
      {{"--log-level", "warn"}, "did you mean 'warning'?"},
      {{"--config"}, "--config"},
      {{"--listen"}, "--listen"},
      {{"--listen", "127.0.0.1:4", "127.0.0.1:5"}, "127.0.0.1:5"},
      {{"--colour"}, "--colour"},
      {{"stray"}, "stray"},
  };
  for (const auto& [arguments, reason] : cases) {
    const Printed printed = command_line(arguments);
    EXPECT_EQ(printed.parsed.exit_code, 2) << reason;
    EXPECT_NE(printed.err.find(reason), std::string::npos) << reason << " in " << printed.err;
    EXPECT_NE(printed.err.find("--help"), std::string::npos) << printed.err;
    EXPECT_EQ(printed.out, "");
  }
}

}  // namespace
}  // namespace tcpmux
