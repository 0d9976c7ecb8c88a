// What two generations of the daemon tell each other of a lane and of a client: as words, and back.
#include "handoff/lane_state.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <nlohmann/json.hpp>

#include "handoff/upgrade_channel.h"

namespace tcpmux::handoff {
namespace {

using nlohmann::json;

OwnFd any_socket() {
  return OwnFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

Lane a_lane() {
  Lane lane({.ours = any_socket(),
             .copy_of_theirs = any_socket(),
             .backend = 0x1'0000'0001,
             .services = {3, 1},
             .kind = LaneKind::kRawStream,
             .without_addresses = true,
             .window = 3,
             .batch = 2});
  lane.shard = 5;
  return lane;
}

// As it goes from one process to the other.
json sent(const json& state) {
  return json::parse(state.dump());
}

Result<std::unique_ptr<Lane>> lane_again(const json& state) {
  return lane_from(sent(state), {7, 9}, any_socket(), any_socket());
}

TEST(LaneState, ALaneIsTheSameAgain) {
  Lane lane = a_lane();
  lane.sent(100, 1, 1000);
  lane.sent(200, 2, 1001);
  lane.sent(250, 1, 1002);
  lane.settle(450, 2000);  // the first was received
  lane.sent(300, 1, 2001);
  lane.sent(8, 0, 2002);  // a probe, beyond the window
  lane.broken = lane.stalled = lane.risk_one = lane.on_probation = true;
  lane.stalled_at_ns = 77;
  OwnFd ours = any_socket();
  OwnFd theirs = any_socket();
  const int numbers[] = {ours.get(), theirs.get()};
  const auto again = lane_from(sent(lane_state(lane)), {7, 9}, std::move(ours), std::move(theirs));
  ASSERT_TRUE(again.has_value()) << again.error().message;
  const Lane& is = **again;
  EXPECT_EQ(is.setup.ours.get(), numbers[0]);
  EXPECT_EQ(is.setup.copy_of_theirs.get(), numbers[1]);
  EXPECT_EQ(is.setup.backend, 0x1'0000'0001U);
  EXPECT_EQ(is.setup.services, (std::vector<ServiceId>{7, 9})) << "ids of the new process";
  EXPECT_EQ(is.next_for.size(), 2U);
  EXPECT_EQ(is.setup.kind, LaneKind::kRawStream);
  EXPECT_TRUE(is.setup.without_addresses);
  EXPECT_EQ(is.setup.window, 3U);
  EXPECT_EQ(is.setup.batch, 2U);
  EXPECT_EQ(is.shard, 5U);
  EXPECT_EQ(is.queued(), 4U);
  EXPECT_EQ(is.waiting().size(), 4U);
  EXPECT_EQ(is.moved_at_ns(), 2000);
  EXPECT_TRUE(is.broken && is.stalled && is.risk_one && is.on_probation);
  EXPECT_EQ(is.stalled_at_ns, 77);
  EXPECT_FALSE(is.gone || is.linked || is.drained || is.broken_reported);
  EXPECT_EQ(is.reserved + is.collected, 0U);
}

TEST(LaneState, ItsBooksGoOn) {
  Lane lane = a_lane();
  lane.sent(100, 1, 1000);
  lane.sent(200, 1, 1001);
  const auto again = lane_again(lane_state(lane));
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ((*again)->room(), 1U);
  EXPECT_EQ((*again)->still_for_ns(1500), 500);
  EXPECT_TRUE((*again)->settle(200, 1600)) << "the bytes that wait name the messages";
  EXPECT_EQ((*again)->room(), 2U);
  (*again)->sent(50, 2, 1700);
  EXPECT_EQ((*again)->room(), 0U);
  EXPECT_TRUE((*again)->settle(0, 1800));
  EXPECT_TRUE((*again)->queue_is_empty());
}

TEST(LaneState, AnEmptyLaneIsEmpty) {
  const auto again = lane_again(lane_state(a_lane()));
  ASSERT_TRUE(again.has_value());
  EXPECT_TRUE((*again)->queue_is_empty());
  EXPECT_EQ((*again)->room(), 3U);
  EXPECT_FALSE((*again)->broken || (*again)->stalled);
}

TEST(LaneState, WhatIsMissingOrOfAnotherKindThrows) {
  const json good = lane_state(a_lane());
  for (const auto& [name, value] : good.items()) {
    json state = good;
    state.erase(name);
    EXPECT_THROW(static_cast<void>(lane_again(state)), json::exception) << name;
    state[name] = "words";
    EXPECT_THROW(static_cast<void>(lane_again(state)), json::exception) << name;
  }
  json state = good;
  state["messages"] = {{1}};
  EXPECT_THROW(static_cast<void>(lane_again(state)), json::exception);
  state["messages"] = {1, 2};
  EXPECT_THROW(static_cast<void>(lane_again(state)), json::exception);
  state = good;
  state["of a later version"] = 1;
  EXPECT_TRUE(lane_again(state).has_value()) << "what is not known does no harm";
}

// Each would have us write where there is no place, or wait for what never comes.
TEST(LaneState, ALaneThatCannotBeIsRefused) {
  const json good = lane_state(a_lane());
  const std::vector<std::pair<const char*, json>> wrong = {
      {"window", 0},     {"window", 0xFFFF'FFFF},
      {"window", -1},    {"batch", 0},
      {"batch", 65},     {"lane_kind", 3},
      {"lane_kind", -1}, {"messages", json::array({{1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}})}};
  for (const auto& [name, value] : wrong) {
    json state = good;
    state[name] = value;
    EXPECT_FALSE(lane_again(state).has_value()) << name << " " << value;
  }
  EXPECT_FALSE(lane_from(good, {}, any_socket(), any_socket()).has_value()) << "it serves nothing";
}

TEST(ClientState, AClientIsTheSameAgain) {
  PassedConnection client;
  client.line_bytes = 17;
  client.was_accepted = true;
  client.source = *parse_endpoint("192.0.2.7:50000");
  client.destination = *parse_endpoint("[2001:db8::1]:1");
  client.accepted_ns = 1'700'000'000'123'456'789;
  client.deadline_ns = 987'654'321'012'345;
  const json state = sent(client_state(client, "Echo"));
  EXPECT_EQ(state.at("kind"), "client");
  EXPECT_EQ(state.at("service"), "Echo");
  OwnFd socket = any_socket();
  const int number = socket.get();
  const PassedConnection again = client_from(state, std::move(socket));
  EXPECT_EQ(again.socket.get(), number);
  EXPECT_EQ(again.line_bytes, 17U);
  EXPECT_TRUE(again.was_accepted);
  EXPECT_EQ(again.source, client.source);
  EXPECT_EQ(again.destination, client.destination);
  EXPECT_EQ(again.accepted_ns, client.accepted_ns);
  EXPECT_EQ(again.deadline_ns, client.deadline_ns);
  EXPECT_EQ(again.service, kNoService) << "found by name, by whom it is given to";
}

TEST(ClientState, WhatIsNotKnownIsNotMadeUp) {
  const PassedConnection again = client_from(sent(client_state({}, "")), any_socket());
  EXPECT_EQ(again.source, Endpoint{});
  EXPECT_EQ(again.destination, Endpoint{});
  EXPECT_EQ(again.deadline_ns, kNever_ns);
  EXPECT_FALSE(again.was_accepted);
}

TEST(ClientState, WhatIsMissingOrOfAnotherKindThrows) {
  const json good = client_state({}, "echo");
  for (const char* name :
       {"line_bytes", "was_accepted", "source", "destination", "accepted_ns", "deadline_ns"}) {
    json state = good;
    state.erase(name);
    EXPECT_THROW(client_from(state, any_socket()), json::exception) << name;
    state[name] = json::array();
    EXPECT_THROW(client_from(state, any_socket()), json::exception) << name;
  }
}

}  // namespace
}  // namespace tcpmux::handoff
