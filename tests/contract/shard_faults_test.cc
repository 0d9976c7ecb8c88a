// A shard whose engine gives one error: the first answer, then the second, until none is left.
// Whatever it was, no other client is the worse for it, nobody who was told '+' is lost while a
// backend lives, every connection ends in one way, and no descriptor is left.
#include <map>
#include <string>
#include <string_view>

#include "tests/contract/faulty_engine.h"
#include "tests/contract/shard_support.h"

namespace tcpmux::contract_test {
namespace {

template <class Io>
class ShardFaults : public ShardTest<Io, Faulty<Io>> {
 public:
  using Engine = Faulty<Io>;

 protected:
  // Runs `scenario(world, arm)` in a world of its own, once for each answer that there is to spoil.
  template <class Scenario>
  void sweep(const WorldOptions& options, Scenario scenario) {
    std::map<std::string, std::uint32_t> spoilt;
    for (std::uint32_t variant = 0; variant < kErrorsOfACallMax; ++variant) {
      for (std::uint32_t nth = 1;; ++nth) {
        World<Engine>& world = this->make_world(options);
        scenario(world, [&] { Engine::fault.arm(nth, variant); });
        Engine::fault.disarm();
        const char* const what = Engine::fault.what();
        if (what == nullptr) break;
        ++spoilt[what];
        if (this->HasFailure()) {
          ADD_FAILURE() << "after " << what << ", number " << nth << ", variant " << variant;
          return;
        }
      }
    }
    for (const auto& [what, count] : spoilt)
      this->RecordProperty(what, static_cast<int>(count));
    EXPECT_FALSE(spoilt.empty()) << "nothing was tried";
  }
};
TYPED_TEST_SUITE(ShardFaults, Engines, EngineNames);

constexpr std::string_view kBusyReply = "-busy, try again\r\n";

// The registry's part: a backend whose lane is broken is ended.
template <class Io>
bool ended_when_broken(World<Io>& world, const Backend& backend) {
  if (!world.heard().noticed(backend.id, handoff::LaneNotice::kBroken)) return false;
  world.end_backend(backend);
  return true;
}

// Whoever asks now, when all goes well again.
template <class Io>
void expect_next_is_served(World<Io>& world) {
  Io::fault.disarm();
  Backend fresh = world.add_backend({.services = {"echo"}});
  EXPECT_TRUE(world.wait_until([&] {
    const OwnFd client = world.ask("echo\r\n");
    const std::string line = read_line(client);
    EXPECT_TRUE(line == "+\r\n" || line == kBusyReply) << line;  // accepting may rest
    return line == "+\r\n";
  }));
}

TYPED_TEST(ShardFaults, Sessions) {
  this->sweep({}, [](auto& world, auto arm) {
    Backend backend = world.add_backend({.window = 32, .batch = 4});
    arm();
    std::vector<OwnFd> clients;
    for (int i = 0; i < 3; ++i)
      clients.push_back(world.ask("echo\r\n"));
    std::size_t answered = 0;
    std::size_t told = 0;
    for (const OwnFd& client : clients) {
      const std::string line = read_line(client);
      answered += line.ends_with("\r\n") ? 1 : 0;
      told += line == "+\r\n" ? 1 : 0;
    }
    EXPECT_GE(answered, 2U) << "one error costs one client at most";
    // The one whose '+' was sent and then called an error is closed.
    const auto lost = [] {
      const char* const what = TestFixture::Engine::fault.what();
      return what != nullptr && std::string_view(what) == "reply" ? 1U : 0U;
    };
    Backend heir;
    const bool served = world.wait_until([&] {
      if (heir.id == 0 && ended_when_broken(world, backend)) heir = world.add_backend();
      backend.receive_now();
      if (heir.id != 0) heir.receive_now();
      return backend.received.size() + heir.received.size() + lost() >= told;
    });
    EXPECT_TRUE(served) << told << " were told '+'";
    expect_next_is_served(world);
  });
}

TYPED_TEST(ShardFaults, RefusalsAndHelp) {
  this->sweep({.services = {{.name = "echo"}, {.name = "idle"}}}, [](auto& world, auto arm) {
    arm();
    std::size_t answered = 0;
    for (const char* line : {"unknown\r\n", "idle\r\nwith more", "HELP\r\n",
                             "b\x01"
                             "d\r\n"}) {
      const OwnFd client = world.ask(line);
      const std::string answer = read_line(client);
      answered += answer.ends_with("\r\n") ? 1 : 0;
    }
    EXPECT_GE(answered, 3U) << "one error costs one client at most";
    expect_next_is_served(world);
  });
}

TYPED_TEST(ShardFaults, LinesInPieces) {
  this->sweep({}, [](auto& world, auto arm) {
    Backend backend = world.add_backend();
    arm();
    std::array<OwnFd, 2> clients = {world.ask("e"), world.ask("e")};
    world.wait_until([&] { return world.count(&ShardCounters::accepted) >= 2; });
    for (const OwnFd& client : clients) {
      // A client whose operation failed has been closed.
      [[maybe_unused]] const ssize_t sent = ::send(client.get(), "cho\r\n", 5, MSG_NOSIGNAL);
    }
    std::size_t answered = 0;
    for (const OwnFd& client : clients)
      answered += read_line(client).ends_with("\r\n") ? 1 : 0;
    EXPECT_GE(answered, 1U) << "one error costs one client at most";
    expect_next_is_served(world);
  });
}

TYPED_TEST(ShardFaults, TakingBack) {
  for (const std::uint16_t batch : {std::uint16_t{1}, std::uint16_t{4}}) {
    this->sweep({}, [batch](auto& world, auto arm) {
      Backend dead = world.add_backend({.window = 32, .batch = batch});
      std::vector<OwnFd> clients;
      for (int i = 0; i < 5; ++i) {
        clients.push_back(world.ask("echo\r\n"));
        EXPECT_EQ(read_line(clients.back()), "+\r\n");
      }
      EXPECT_TRUE(world.comes(&ShardCounters::handed_off, 5));
      Backend living = world.add_backend({.window = 32, .batch = batch});
      arm();
      world.end_backend(dead);
      Backend heir;
      EXPECT_TRUE(world.wait_until([&] {
        if (heir.id == 0 && ended_when_broken(world, living)) heir = world.add_backend();
        living.receive_now();
        if (heir.id != 0) heir.receive_now();
        return living.received.size() + heir.received.size() >= 5;
      })) << living.received.size()
          << " of 5 were taken back and handed to the other";
      expect_next_is_served(world);
    });
  }
}

// At its end a shard tells who waits; nobody of them is lost without a word but the one whose
// operation failed.
TYPED_TEST(ShardFaults, TheEnd) {
  this->sweep({}, [](auto& world, auto arm) {
    std::array<OwnFd, 3> clients = {world.ask("ec"), world.ask("e"), world.ask("echo\r\n")};
    EXPECT_EQ(read_line(clients[2]), "-unavailable, no backend at the moment\r\n");
    EXPECT_TRUE(world.comes(&ShardCounters::accepted, 3));
    arm();
    world.begin_shutdown(0);
    std::size_t told = 0;
    for (std::size_t i = 0; i < 2; ++i) {
      told += read_line(clients[i]) == "-shutting down\r\n" ? 1 : 0;
      clients[i].reset();
    }
    clients[2].reset();
    world.stop();
    EXPECT_GE(told, 1U);
  });
}

}  // namespace
}  // namespace tcpmux::contract_test
