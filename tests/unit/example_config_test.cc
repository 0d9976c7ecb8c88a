// The example file has every key, with its true default.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

#include "core/server/config.h"
#include "tests/unit/config_support.h"

namespace tcpmux {
namespace {

namespace fs = std::filesystem;

std::string example_text() {
  const fs::path file = TCPMUX_EXAMPLE_FILE;
  std::ifstream stream(file);
  EXPECT_TRUE(stream.is_open()) << file;
  std::string text((std::istreambuf_iterator<char>(stream)), {});
  for (const char* key : {"\n#listen = ", "\n#path = "}) {
    const std::size_t at = text.find(key);
    EXPECT_NE(at, std::string::npos) << "the default is shown, but as a comment";
    if (at != std::string::npos) text.erase(at + 1, 1);
  }
  return text;
}

TEST(Example, ShowsTheDefaults) {
  const Result<Config> example = parse_config(example_text(), "tcpmuxd.example.toml");
  ASSERT_TRUE(example.has_value()) << error_of(example);
  expect_same_scalars(*example, Config{});
  EXPECT_EQ(example->listen, parsed("").listen);
  ASSERT_GE(example->services.size(), 1u);
  const Service& shown = example->services[0];
  const Service defaults;
  EXPECT_EQ(shown.message, defaults.message);
  EXPECT_EQ(shown.hidden, defaults.hidden);
  EXPECT_EQ(shown.coalesce_reply, defaults.coalesce_reply);
  EXPECT_EQ(shown.users, defaults.users);
  EXPECT_TRUE(shown.access.everyone());
}

// The keys are taken from the parser's own list of them, so a new one must be documented.
TEST(Example, HasEveryKey) {
  const struct {
    std::string heading;
    std::string unknown;
  } sections[] = {{"", "zzzzzz = 1"},
                  {"[registry]", "registry.zzzzzz = 1"},
                  {"[control]", "control.zzzzzz = 1"},
                  {"[handshake]", "handshake.zzzzzz = 1"},
                  {"[handoff]", "handoff.zzzzzz = 1"},
                  {"[help]", "help.zzzzzz = 1"},
                  {"[services.echo]", "services.a.zzzzzz = 1"}};
  const std::string text = example_text();
  for (const auto& [heading, unknown] : sections) {
    const std::string error = error_in(unknown);
    const std::string start = "the keys known here: ";
    ASSERT_NE(error.find(start), std::string::npos) << error;
    std::istringstream keys(error.substr(error.find(start) + start.size()));
    const std::size_t section = heading.empty() ? 0 : text.find("\n" + heading + "\n");
    ASSERT_NE(section, std::string::npos) << heading;
    const std::string body = text.substr(section, text.find("\n[", section + 1) - section);
    for (std::string key; std::getline(keys >> std::ws, key, ',');) {
      const bool has_key = body.find("\n" + key + " = ") != std::string::npos;
      const bool is_section = text.find("\n[" + key) != std::string::npos;
      EXPECT_TRUE(has_key || (heading.empty() && is_section)) << heading << " " << key;
    }
  }
}

}  // namespace
}  // namespace tcpmux
