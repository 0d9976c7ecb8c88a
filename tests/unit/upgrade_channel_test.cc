// The channel between two generations of the daemon: messages with descriptors, and how it ends.
#include "handoff/upgrade_channel.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "handoff/ancillary.h"
#include "handoff/takeover.h"

namespace tcpmux::handoff {
namespace {

using nlohmann::json;

constexpr std::int64_t kPatience_ms = 60'000;

std::size_t open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

struct Ends {
  UpgradeChannel old_one;
  UpgradeChannel new_one;
};

Ends ends() {
  auto pair = UpgradeChannel::make_pair();
  TCPMUX_CHECK(pair.has_value(), "a channel can be made");
  auto theirs = UpgradeChannel::from(std::move(pair->theirs));
  TCPMUX_CHECK(theirs.has_value(), "the other end is one too");
  return {std::move(pair->ours), *std::move(theirs)};
}

UpgradeMessage heard(UpgradeChannel& channel) {
  auto message = channel.receive(kPatience_ms);
  EXPECT_TRUE(message.has_value() && message->has_value());
  return message && *message ? **std::move(message) : UpgradeMessage{};
}

TEST(UpgradeChannel, MessagesComeWholeAndInOrderBothWays) {
  auto [old_one, new_one] = ends();
  ASSERT_TRUE(old_one.send({{"kind", "offer"}, {"version", 1}}, {}).has_value());
  ASSERT_TRUE(old_one.send({{"kind", "offered"}}, {}).has_value());
  ASSERT_TRUE(new_one.send({{"kind", "ready"}}, {}).has_value());
  const UpgradeMessage first = heard(new_one);
  EXPECT_EQ(first.kind, "offer");
  EXPECT_EQ(first.body.at("version"), 1);
  EXPECT_TRUE(first.descriptors.empty());
  EXPECT_EQ(heard(new_one).kind, "offered");
  EXPECT_EQ(heard(old_one).kind, "ready");
}

TEST(UpgradeChannel, DescriptorsComeInOrder) {
  auto [old_one, new_one] = ends();
  std::vector<OwnFd> readers;
  std::vector<OwnFd> writers;
  std::vector<int> numbers;
  for (std::size_t i = 0; i < kDescriptorsMax; ++i) {
    int pipe[2];
    ASSERT_EQ(::pipe2(pipe, O_CLOEXEC), 0);
    readers.emplace_back(pipe[0]);
    writers.emplace_back(pipe[1]);
    numbers.push_back(pipe[1]);
  }
  ASSERT_TRUE(old_one.send({{"kind", "address"}}, numbers).has_value());
  writers.clear();
  const UpgradeMessage message = heard(new_one);
  ASSERT_EQ(message.descriptors.size(), kDescriptorsMax);
  for (std::size_t i = 0; i < kDescriptorsMax; ++i) {
    const auto byte = static_cast<char>(i);
    ASSERT_EQ(::write(message.descriptors[i].get(), &byte, 1), 1);
    char got = 0;
    ASSERT_EQ(::read(readers[i].get(), &got, 1), 1);
    EXPECT_EQ(got, byte);
    EXPECT_NE(::fcntl(message.descriptors[i].get(), F_GETFD) & FD_CLOEXEC, 0);
  }
}

// The state of a lane with the largest window there is.
TEST(UpgradeChannel, TheLongestMessageFits) {
  auto [old_one, new_one] = ends();
  json messages = json::array();
  for (int i = 0; i < 16'385; ++i)
    messages.push_back({16'384, 1});
  ASSERT_TRUE(old_one.send({{"kind", "lane"}, {"messages", messages}}, {}).has_value());
  EXPECT_EQ(heard(new_one).body.at("messages").size(), 16'385U);
}

TEST(UpgradeChannel, TooLongAMessageIsAnError) {
  auto [old_one, new_one] = ends();
  const Status said = old_one.send({{"kind", std::string(4 << 20, 'x')}}, {});
  ASSERT_FALSE(said.has_value());
  EXPECT_EQ(said.error().code, EMSGSIZE);
  ASSERT_TRUE(old_one.send({{"kind", "offered"}}, {}).has_value()) << "others still come";
  EXPECT_EQ(heard(new_one).kind, "offered");
}

TEST(UpgradeChannel, TheEndIsNoMessage) {
  auto [old_one, new_one] = ends();
  ASSERT_TRUE(old_one.send({{"kind", "last"}}, {}).has_value());
  {
    const UpgradeChannel closed = std::move(old_one);
  }
  EXPECT_EQ(heard(new_one).kind, "last") << "what was said before is heard";
  for (const std::int64_t timeout_ms : {std::int64_t{0}, kPatience_ms}) {
    const auto message = new_one.receive(timeout_ms);
    ASSERT_TRUE(message.has_value());
    EXPECT_FALSE(message->has_value());
  }
  const Status said = new_one.send({{"kind", "ready"}}, {});
  ASSERT_FALSE(said.has_value());
  EXPECT_EQ(said.error().code, EPIPE);
}

TEST(UpgradeChannel, SilenceEnds) {
  auto [old_one, new_one] = ends();
  const auto now = new_one.receive(0);
  ASSERT_FALSE(now.has_value());
  EXPECT_EQ(now.error().code, EAGAIN);
  const std::int64_t before_ns = monotonic_ns();
  const auto later = new_one.receive(30);
  ASSERT_FALSE(later.has_value());
  EXPECT_EQ(later.error().code, ETIMEDOUT);
  EXPECT_GE(monotonic_ns(), before_ns + 30 * kNanosPerMilli);
}

// More than the socket has room for: the one who speaks waits for the one who listens.
TEST(UpgradeChannel, WhoSpeaksMoreThanFitsWaits) {
  auto [old_one, new_one] = ends();
  constexpr int kCount = 2000;
  std::thread speaks([&channel = old_one] {
    for (int i = 0; i < kCount; ++i)
      ASSERT_TRUE(channel.send({{"kind", "lane"}, {"i", i}, {"x", std::string(2000, 'x')}}, {})
                      .has_value());
  });
  for (int i = 0; i < kCount; ++i)
    ASSERT_EQ(heard(new_one).body.at("i"), i);
  speaks.join();
}

TEST(UpgradeChannel, WhatIsNoMessageIsAnErrorAndLeavesNothing) {
  auto [old_one, new_one] = ends();
  const std::size_t before = open_descriptors();
  const int any = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  for (const std::string_view text :
       {"no JSON", "[]", "1", "null", "{}", R"({"kind": 1})", R"({"kind": null})", "{\"kind\": \"",
        "\xFF\xFE", "{\"kind\": \"x\"} and more"}) {
    ASSERT_EQ(send_now(old_one.fd(), std::as_bytes(std::span(text)), std::span(&any, 1)), 0);
    EXPECT_FALSE(new_one.receive(kPatience_ms).has_value()) << text;
  }
  ::close(any);
  EXPECT_EQ(open_descriptors(), before) << "what came with it is closed";
}

// A message that is longer than any of ours does not come in part.
TEST(UpgradeChannel, ATruncatedMessageIsAnError) {
  auto [old_one, new_one] = ends();
  const std::string text = R"({"kind": "x"})" + std::string(600 << 10, ' ');
  const int bytes = 2 << 20;
  if (::setsockopt(old_one.fd(), SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) < 0)
    GTEST_SKIP() << "only root can send so much at once";
  ASSERT_EQ(send_now(old_one.fd(), std::as_bytes(std::span(text)), {}), 0);
  const auto message = new_one.receive(kPatience_ms);
  ASSERT_FALSE(message.has_value());
  EXPECT_NE(message.error().message.find("whole"), std::string::npos) << message.error().message;
}

TEST(UpgradeChannel, OnlySuchASocketIsOne) {
  auto pair = UpgradeChannel::make_pair();
  ASSERT_TRUE(pair.has_value());
  ASSERT_EQ(::fcntl(pair->theirs.get(), F_SETFD, 0), 0);  // as it comes to a successor
  const auto channel = UpgradeChannel::from(std::move(pair->theirs));
  ASSERT_TRUE(channel.has_value());
  EXPECT_NE(::fcntl(channel->fd(), F_GETFD) & FD_CLOEXEC, 0) << "no child of ours gets it";
  std::vector<OwnFd> others;
  others.emplace_back(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  others.emplace_back(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  others.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  for (OwnFd& other : others) {
    const auto none = UpgradeChannel::from(std::move(other));
    ASSERT_FALSE(none.has_value());
    EXPECT_NE(none.error().message.find("TCPMUX_UPGRADE_FD"), std::string::npos);
  }
}

Result<std::optional<Takeover>> takeover_with(const char* value) {
  ::setenv(kUpgradeVariable, value, 1);
  auto takeover = Takeover::from_environment();
  EXPECT_EQ(::getenv(kUpgradeVariable), nullptr) << "no child of ours takes it for its own";
  return takeover;
}

TEST(Takeover, IsAskedForByTheEnvironment) {
  ::unsetenv(kUpgradeVariable);
  const auto none = Takeover::from_environment();
  ASSERT_TRUE(none.has_value());
  EXPECT_FALSE(none->has_value());
  auto pair = UpgradeChannel::make_pair();
  ASSERT_TRUE(pair.has_value());
  auto takeover = takeover_with(std::to_string(pair->theirs.release()).c_str());
  ASSERT_TRUE(takeover.has_value() && takeover->has_value());
}

TEST(Takeover, ADescriptorThatCannotBeItIsRefused) {
  for (const char* value : {"", "x", "-1", "3x", "99999999999", "19999", "2147483647"}) {
    const auto takeover = takeover_with(value);
    ASSERT_FALSE(takeover.has_value()) << value;
    EXPECT_NE(takeover.error().message.find(kUpgradeVariable), std::string::npos);
  }
}

// What is offered, in whichever of its parts, is taken or refused; the descriptors are ours or
// closed.
TEST(Takeover, TheOfferIsTaken) {
  auto pair = UpgradeChannel::make_pair();
  auto takeover = takeover_with(std::to_string(pair->theirs.release()).c_str());
  ASSERT_TRUE(takeover.has_value() && takeover->has_value());
  const std::size_t before = open_descriptors();
  const OwnFd any(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const std::vector<int> two = {any.get(), any.get()};
  const json offer = {{"kind", "offer"}, {"version", 1}, {"registry", "/r.sock"}, {"lanes", 5}};
  const json address = {{"kind", "address"},
                        {"wanted", "127.0.0.1:0"},
                        {"real", "127.0.0.1:5"},
                        {"inherited", false}};
  UpgradeChannel& says = pair->ours;
  ASSERT_TRUE(says.send(offer, two) && says.send(address, two) &&
              says.send({{"kind", "later"}}, two) && says.send({{"kind", "offered"}}, {}));
  const Status taken = (*takeover)->receive_offer();
  ASSERT_TRUE(taken.has_value()) << taken.error().message;
  EXPECT_EQ((*takeover)->registry_path(), "/r.sock");
  EXPECT_EQ((*takeover)->lane_count(), 5U);
  const std::vector<OfferedAddress> addresses = (*takeover)->take_addresses();
  ASSERT_EQ(addresses.size(), 1U);
  EXPECT_EQ(addresses[0].real, *parse_endpoint("127.0.0.1:5"));
  EXPECT_EQ(addresses[0].sockets.size(), 2U);
  EXPECT_EQ(open_descriptors(), before + 1 + 4) << "those of the unknown message are closed";

  json other_version = offer;
  other_version["version"] = 2;
  json no_path = offer;
  no_path.erase("registry");
  json no_address = address;
  no_address["real"] = "nowhere";
  for (const json& wrong : {other_version, no_path, no_address}) {
    ASSERT_TRUE(says.send(wrong, two));
    EXPECT_FALSE((*takeover)->receive_offer().has_value()) << wrong;
  }
  ASSERT_TRUE(says.send(offer, std::span(two).first(1)));
  EXPECT_FALSE((*takeover)->receive_offer().has_value()) << "the lock or the socket is missing";
  ASSERT_TRUE(says.send(address, {}));
  EXPECT_FALSE((*takeover)->receive_offer().has_value());
  EXPECT_EQ(open_descriptors(), before + 1 + 4);
}

}  // namespace
}  // namespace tcpmux::handoff
