// What the cases of a pause, a leave and a change do to a world: the test in the place of the
// steward that leads them, and of the successor.
#pragma once

#include <sys/ioctl.h>

#include "tests/contract/held_engine.h"
#include "tests/contract/shard_clients.h"

namespace tcpmux::contract_test {

template <class Io>
void begin_pause(World<Io>& world) {
  world.heard().shards_paused = 0;
  world.tell_all(ShardMessage::Kind::kPause);
}
template <class Io>
bool is_paused(World<Io>& world) {
  return world.wait_until([&] { return world.heard().shards_paused == world.shards(); });
}
// All lanes are in heard().lanes when it returns.
template <class Io>
void pause(World<Io>& world) {
  begin_pause(world);
  ASSERT_TRUE(is_paused(world));
}
template <class Io>
void give_lane(World<Io>& world, std::unique_ptr<handoff::Lane> lane) {
  const std::uint32_t shard = lane->shard;
  ShardMessage message;
  message.kind = ShardMessage::Kind::kSink;
  message.sink = std::move(lane);
  world.tell(shard, std::move(message));
}
// The lanes go to the shards that they came from.
template <class Io>
void give_lanes(World<Io>& world) {
  for (std::unique_ptr<handoff::Lane>& lane : std::exchange(world.heard().lanes, {}))
    give_lane(world, std::move(lane));
}
// It was for nothing.
template <class Io>
void resume(World<Io>& world) {
  give_lanes(world);
  world.tell_all(ShardMessage::Kind::kResume);
}

template <class Io>
void inherit(World<Io>& world, PassedConnection connection) {
  ShardMessage message;
  message.kind = ShardMessage::Kind::kInherited;
  message.connection = std::move(connection);
  world.tell(0, std::move(message));
}

// The next that was passed on to the successor; none when it does not come.
template <class Io>
PassedConnection passed_on(World<Io>& world) {
  auto& all = world.heard().passed_on;
  if (!world.wait_until([&] { return !all.empty(); })) return {};
  PassedConnection first = std::move(all.front());
  all.erase(all.begin());
  return first;
}

template <class Io>
void change(World<Io>& world, ShardChange to) {
  ShardMessage message;
  message.kind = ShardMessage::Kind::kChange;
  message.change = std::make_unique<ShardChange>(std::move(to));
  world.tell(0, std::move(message));
}
template <class Io>
void change_settings(World<Io>& world, const ShardSettings& settings) {
  ShardChange to;
  to.settings = settings;
  change(world, std::move(to));
}

// Another address for a shard. (A World's own has the number 0.)
struct Opened {
  Endpoint endpoint;
  ShardListener listener;
};
inline Opened open_another(std::uint32_t number) {
  Result<OwnFd> socket = open_listener({.endpoint = own_endpoint()});
  TCPMUX_CHECK(socket.has_value(), "a test needs a listener");
  const Endpoint endpoint = *local_endpoint(socket->get());
  return {.endpoint = endpoint,
          .listener = {.socket = *std::move(socket), .inherited = false, .address = number}};
}

// Runs `prepare` while the shards rest, who then see all of it in one turn.
template <class Io, class Prepare>
void in_one_turn(World<Io>& world, Prepare prepare) {
  Io::gate.hold(world.shards(), [&] {
    for (std::uint32_t shard = 0; shard < world.shards(); ++shard)
      world.mailbox(shard).wake();
  });
  prepare();
  Io::gate.release();
}
// For what clients send and, behind it, what a mailbox says. It is a newcomer that wakes the (only)
// shard for it to be held: epoll would tell of a mailbox that did so before it tells of clients.
template <class Io, class Prepare>
OwnFd in_one_turn_in_order(World<Io>& world, Prepare prepare) {
  OwnFd newcomer;
  Io::gate.hold(1, [&] { newcomer = world.connect(); });
  prepare();
  Io::gate.release();
  return newcomer;
}
// What came to the shards before has been looked at when it returns, also by those who are paused.
template <class Io>
void settle_turns(World<Io>& world) {
  for (int turn = 0; turn < 2; ++turn)
    in_one_turn(world, [] {});
}

// Nothing has come, and no end.
inline bool hears_nothing(const OwnFd& client) {
  char byte = 0;
  return ::recv(client.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

inline OwnFd ask_at(const Endpoint& endpoint, std::string_view line) {
  OwnFd client = connect_to_endpoint(endpoint);
  send_text(client, line);
  return client;
}

}  // namespace tcpmux::contract_test
