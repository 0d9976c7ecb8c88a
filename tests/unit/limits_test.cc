// The descriptor budget: no more is given away than there is, and an error names a number that
// suffices.
#include "core/server/limits.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdint>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

namespace tcpmux {
namespace {

constexpr std::uint32_t kAny = std::numeric_limits<std::uint32_t>::max();

// "at least N are needed"
std::optional<std::uint32_t> number_named(const std::string& message) {
  const std::string_view before = "at least ";
  const std::size_t at = message.find(before);
  if (at == std::string::npos) return std::nullopt;
  return static_cast<std::uint32_t>(std::stoul(message.substr(at + before.size())));
}

std::uint64_t given_away(const Limits& limits, std::uint32_t shards, std::uint32_t listeners) {
  const std::uint64_t by_shard = std::uint64_t{limits.connections_per_shard} +
                                 limits.busy_per_shard + limits.taken_back_per_shard + listeners;
  return limits.backend_descriptors + shards * by_shard;
}

TEST(Limits, NoMoreIsGivenAwayThanThereIs) {
  for (const std::uint32_t descriptors : {64U, 100U, 256U, 1024U, 4096U, 65'536U, 1'048'576U}) {
    for (const std::uint32_t shards : {1U, 2U, 4U, 16U, 64U}) {
      for (const std::uint32_t listeners : {1U, 2U, 8U}) {
        const Result<Limits> limits = divide_descriptors(descriptors, shards, listeners, kAny);
        if (!limits) continue;
        SCOPED_TRACE(std::to_string(descriptors) + ", " + std::to_string(shards) + " shards");
        EXPECT_EQ(limits->descriptors, descriptors);
        const std::uint64_t given = given_away(*limits, shards, listeners);
        // Standard streams, epoll, signals, mailboxes, the log: 12; the control socket: 18; and 4
        // for each shard.
        EXPECT_LE(given + 32 + 4 * shards, descriptors);
        EXPECT_GT(given + 32 + 4 * shards + shards, descriptors) << "nothing is left lying about";
        EXPECT_GE(limits->connections_per_shard, 4U);
        EXPECT_GE(limits->backend_descriptors, 12U);
        EXPECT_GE(limits->sockets_per_message_max, 1U);
        EXPECT_LE(limits->sockets_per_message_max, limits->taken_back_per_shard)
            << "a message that is taken back fits into the slots that are kept for it";
        EXPECT_LE(limits->sockets_per_message_max, 64U);
      }
    }
  }
}

TEST(Limits, NoMoreConnectionsThanWereWanted) {
  const Result<Limits> limits = divide_descriptors(1'048'576, 4, 2, 8192);
  ASSERT_TRUE(limits.has_value());
  EXPECT_EQ(limits->connections_per_shard, 8192U);
}

TEST(Limits, OneShardLivesOn64) {
  const Result<Limits> limits = divide_descriptors(64, 1, 2, 8192);
  ASSERT_TRUE(limits.has_value()) << limits.error().message;
  EXPECT_GE(limits->connections_per_shard, 4U);
}

TEST(Limits, AnErrorNamesANumberThatSuffices) {
  for (const std::uint32_t shards : {1U, 2U, 3U, 8U, 64U}) {
    for (const std::uint32_t listeners : {1U, 2U, 64U}) {
      for (const std::uint32_t descriptors : {0U, 1U, 20U, 40U, 50U}) {
        const Result<Limits> refused = divide_descriptors(descriptors, shards, listeners, kAny);
        if (refused) continue;
        const std::optional<std::uint32_t> enough = number_named(refused.error().message);
        ASSERT_TRUE(enough.has_value()) << refused.error().message;
        EXPECT_TRUE(divide_descriptors(*enough, shards, listeners, kAny).has_value())
            << refused.error().message;
        EXPECT_FALSE(divide_descriptors(*enough - 1, shards, listeners, kAny).has_value())
            << "it is the least: " << refused.error().message;
      }
    }
  }
}

TEST(Limits, TheSoftLimitIsRaisedToTheHardOne) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit lowered{.rlim_cur = 100, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &lowered), 0);
  const Result<std::uint32_t> raised = raise_descriptor_limit();
  rlimit after{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &after), 0);
  EXPECT_EQ(after.rlim_cur, before.rlim_max);
  ASSERT_TRUE(raised.has_value());
  EXPECT_EQ(*raised, std::min<rlim_t>(before.rlim_max, std::numeric_limits<std::int32_t>::max()));
  ::setrlimit(RLIMIT_NOFILE, &before);
}

// FDSize of proc_pid_status(5): the size of the table, in descriptors.
std::uint32_t descriptor_table_size() {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word)
    if (word == "FDSize:" && status >> word) return static_cast<std::uint32_t>(std::stoul(word));
  return 0;
}

TEST(Limits, TheDescriptorTableGrowsAtOnce) {
  const std::uint32_t before = descriptor_table_size();
  ASSERT_GT(before, 0u);
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  const std::uint32_t wanted = 4 * before + 1;
  if (wanted > limit.rlim_cur) GTEST_SKIP() << "the descriptor limit is " << limit.rlim_cur;
  grow_descriptor_table(wanted);
  EXPECT_GE(descriptor_table_size(), wanted);
}

}  // namespace
}  // namespace tcpmux
