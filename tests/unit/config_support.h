// What the tests of the configuration share.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "core/server/config.h"

namespace tcpmux {

inline Config parsed(std::string_view toml) {
  const Result<Config> config = parse_config(toml, "test.toml");
  EXPECT_TRUE(config.has_value()) << (config ? "" : config.error().message);
  return config.value_or(Config{});
}

inline std::string error_of(const Result<Config>& config) {
  return config ? "(no error)" : config.error().message;
}
inline std::string error_in(std::string_view toml) {
  return error_of(parse_config(toml, "test.toml"));
}

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);)
    lines.push_back(line);
  return lines;
}

inline std::vector<Endpoint> endpoints(std::initializer_list<const char*> texts) {
  std::vector<Endpoint> result;
  for (const char* text : texts)
    result.push_back(parse_endpoint(text).value());
  return result;
}

inline void expect_same_scalars(const Config& a, const Config& b) {
  EXPECT_EQ(a.shards, b.shards);
  EXPECT_EQ(a.engine, b.engine);
  EXPECT_EQ(a.log_level, b.log_level);
  EXPECT_EQ(a.registry.path, b.registry.path);
  EXPECT_EQ(a.registry.open, b.registry.open);
  EXPECT_EQ(a.registry.users, b.registry.users);
  EXPECT_EQ(a.registry.groups, b.registry.groups);
  EXPECT_EQ(a.control_path(), b.control_path());
  EXPECT_EQ(a.handshake.deadline_ms, b.handshake.deadline_ms);
  EXPECT_EQ(a.handshake.line_bytes_max, b.handshake.line_bytes_max);
  EXPECT_EQ(a.handshake.connections_per_shard_max, b.handshake.connections_per_shard_max);
  EXPECT_EQ(a.handshake.defer_accept, b.handshake.defer_accept);
  EXPECT_EQ(a.handoff.window_max, b.handoff.window_max);
  EXPECT_EQ(a.handoff.stall_ms, b.handoff.stall_ms);
  EXPECT_EQ(a.handoff.deadline_ms, b.handoff.deadline_ms);
  EXPECT_EQ(a.handoff.room_wait_ms, b.handoff.room_wait_ms);
  EXPECT_EQ(a.help_enabled, b.help_enabled);
}

struct Refusal {
  std::string toml;
  std::string place;  // "LINE:COLUMN"
  std::vector<const char*> advice;
};

inline void expect_refused(const Refusal& refusal) {
  SCOPED_TRACE(refusal.toml.substr(0, 200));
  const std::string error = error_in(refusal.toml);
  const std::vector<std::string> lines = lines_of(error);
  ASSERT_EQ(lines.size(), 1u) << error;
  EXPECT_TRUE(error.starts_with("test.toml:" + refusal.place + ": ")) << error;
  for (const char* advice : refusal.advice)
    EXPECT_NE(error.find(advice), std::string::npos) << error << "\nlacks: " << advice;
}

}  // namespace tcpmux
