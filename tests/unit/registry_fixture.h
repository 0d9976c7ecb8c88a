// A registry with its loop on a thread of its own, the test in the place of every shard, and
// backends that speak the protocol's bytes.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "handoff/ancillary.h"
#include "handoff/registry.h"
#include "tests/unit/temporary_folder.h"

namespace tcpmux::handoff {

using Bytes = std::vector<std::byte>;

// A backend: its connection to the registry.
class Peer {
 public:
  explicit Peer(const std::string& path)
      : fd_(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    TCPMUX_CHECK(
        ::connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0,
        "a test connects to its registry");
  }
  int fd() const { return fd_.get(); }
  void send(const Bytes& message, std::span<const int> descriptors = {}) {
    TCPMUX_CHECK(send_now(fd_.get(), message, descriptors) == 0, "a message can be sent");
  }
  void leave() { fd_.reset(); }

 private:
  OwnFd fd_;
};

// What a peer was told.
struct Told {
  bool ended = false;
  Bytes message;
  std::vector<OwnFd> descriptors;

  MessageType type() const { return static_cast<MessageType>(decode_header(message)->type); }
};

// What a shard was told, in the order in which it came.
struct ShardNews {
  // L: a lane, R: routes, D: a drain, G: a backend gone, T: a table, M: places for more services,
  // t: times
  std::string order;
  std::vector<std::unique_ptr<Lane>> lanes;
  std::map<ServiceId, RoutesCommand::Entry> routes;
  std::vector<std::uint64_t> draining;
  std::vector<std::uint64_t> gone;
  std::shared_ptr<const ServiceTable> table;
  std::uint64_t version = 0;
};

class RegistryWorld {
 public:
  explicit RegistryWorld(RegistryOptions options, std::uint32_t shards = 1,
                         std::vector<Service> services = {{.name = "echo"}, {.name = "time"}},
                         std::size_t mailbox_places = 256, RegistrySocket* to_take_over = nullptr)
      : loop_(*EventLoop::create()),
        table_(std::make_shared<const ServiceTable>(*ServiceTable::build(std::move(services)))),
        news_(shards),
        knows_(shards, true) {
    spdlog::set_level(spdlog::level::off);
    for (std::uint32_t i = 0; i < shards; ++i) {
      mailboxes_.push_back(std::make_unique<ShardMailbox>(mailbox_places));
      raw_mailboxes_.push_back(mailboxes_.back().get());
    }
    path_ = to_take_over != nullptr ? to_take_over->path() : folder_->file("registry.sock");
    options.path = path_;
    make_registry(options, to_take_over);
    TCPMUX_CHECK(loop_->add(wakeup_.get(), [this] { run_posted(); }).has_value(), "an eventfd");
    thread_ = std::thread([this] { loop_->run(); });
  }
  ~RegistryWorld() {
    on_loop([this] { loop_->stop(); });
    thread_.join();
    registry_.reset();
    loop_->remove(wakeup_.get());
  }

  // Runs `work` on the loop's thread, where the registry lives.
  void on_loop(const std::function<void()>& work) {
    std::promise<void> done;
    std::future<void> waits = done.get_future();
    {
      const std::lock_guard lock(mutex_);
      posted_ = [&] {
        work();
        done.set_value();
      };
    }
    const std::uint64_t one = 1;
    TCPMUX_CHECK(::write(wakeup_.get(), &one, sizeof one) == sizeof one, "an eventfd counts");
    waits.get();
  }

  Registry& registry() { return *registry_; }
  const std::string& path() const { return path_; }
  // Where the path is; for who goes on there when this world has ended.
  std::shared_ptr<TestFolder> folder() const { return folder_; }
  const ServiceTable& table() const { return *table_; }
  ShardNews& news(std::size_t shard = 0) { return news_[shard]; }
  std::size_t backend_count() {
    std::size_t count = 0;
    on_loop([&] { count = registry_->backend_count(); });
    return count;
  }

  // A shard that learns of routes says so, as its router does; or not, until told to.
  void let_shard_know(std::size_t shard, bool knows) { knows_[shard] = knows; }

  // The shards read what has come for them.
  void pump() {
    for (std::size_t shard = 0; shard < mailboxes_.size(); ++shard) {
      ShardMessage message;
      while (mailboxes_[shard]->receive(message))
        read(news_[shard], message);
      if (knows_[shard])
        registry_->routes_version(static_cast<std::uint32_t>(shard))
            ->store(news_[shard].version, std::memory_order_release);
    }
  }
  template <class Condition>
  bool wait_until(Condition condition) {
    const std::int64_t deadline_ns = monotonic_ns() + 30 * kNanosPerSecond;
    for (;;) {
      pump();
      if (condition()) return true;
      if (monotonic_ns() > deadline_ns) return false;
      ::poll(nullptr, 0, 1);
    }
  }

  // The next that the peer hears; the end, if that is it.
  Told hear(const Peer& peer) {
    Told told;
    EXPECT_TRUE(wait_until([&] { return hears_now(peer, told); })) << "the mux says nothing";
    return told;
  }
  bool hears_now(const Peer& peer, Told& told) {
    Bytes buffer(kMessageBytesMax);
    std::array<OwnFd, kLanesMax> places;
    const Received got = receive(peer.fd(), buffer, places, MSG_DONTWAIT);
    if (got.kind == Received::Kind::kEmpty) return false;
    told.ended = got.kind != Received::Kind::kMessage;
    buffer.resize(got.bytes);
    told.message = std::move(buffer);
    for (std::size_t i = 0; i < got.descriptors; ++i)
      told.descriptors.push_back(std::move(places[i]));
    return true;
  }

  Told ask(Peer& peer, const Register& asked) {
    peer.send(encode(asked));
    return hear(peer);
  }
  // Gives the lanes of all shards back, as routers do when their backend is gone.
  void give_lanes_back() {
    for (ShardNews& news : news_) {
      for (std::unique_ptr<Lane>& lane : std::exchange(news.lanes, {}))
        on_loop([&] { registry_->receive(std::move(lane)); });
    }
  }
  void notice(std::uint64_t backend, LaneNotice what, std::uint32_t amount) {
    StewardMessage message;
    message.kind = StewardMessage::Kind::kSinkNotice;
    message.number = backend;
    message.detail = static_cast<std::uint32_t>(what);
    message.amount = amount;
    on_loop([&] { registry_->receive_notice(message); });
  }

 private:
  void make_registry(const RegistryOptions& options, RegistrySocket* to_take_over) {
    if (to_take_over != nullptr) {
      registry_ =
          Registry::take_over(options, std::move(*to_take_over), *loop_, table_, raw_mailboxes_);
      return;
    }
    auto opened = Registry::open(options, *loop_, table_, raw_mailboxes_);
    TCPMUX_CHECK(opened.has_value(), "a registry can be opened in a folder of its own");
    registry_ = *std::move(opened);
  }
  void run_posted() {
    std::uint64_t signalled = 0;
    [[maybe_unused]] const ssize_t bytes = ::read(wakeup_.get(), &signalled, sizeof signalled);
    const std::lock_guard lock(mutex_);
    if (posted_) std::exchange(posted_, nullptr)();
  }
  static void read(ShardNews& news, ShardMessage& message) {
    if (message.kind == ShardMessage::Kind::kTable) {
      news.order += 'T';
      news.table = message.table;
      return;
    }
    TCPMUX_CHECK(message.kind == ShardMessage::Kind::kSink, "the registry says nothing else");
    auto& command = static_cast<RouterMessage&>(*message.sink);
    switch (command.kind) {
      case RouterMessage::Kind::kLane:
        news.order += 'L';
        news.lanes.emplace_back(static_cast<Lane*>(message.sink.release()));
        return;
      case RouterMessage::Kind::kDrainBackend:
        news.order += 'D';
        news.draining.push_back(static_cast<BackendCommand&>(command).backend);
        return;
      case RouterMessage::Kind::kBackendGone:
        news.order += 'G';
        news.gone.push_back(static_cast<BackendCommand&>(command).backend);
        return;
      case RouterMessage::Kind::kRoutes:
        news.order += 'R';
        for (const auto& entry : static_cast<RoutesCommand&>(command).entries)
          news.routes[entry.service] = entry;
        news.version = static_cast<RoutesCommand&>(command).version;
        return;
      case RouterMessage::Kind::kMoreRoutes:
        news.order += 'M';
        return;
      case RouterMessage::Kind::kTimes:
        news.order += 't';
        return;
    }
  }

  std::shared_ptr<TestFolder> folder_ = std::make_shared<TestFolder>();
  std::string path_;
  OwnFd wakeup_{::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
  std::unique_ptr<EventLoop> loop_;
  std::shared_ptr<const ServiceTable> table_;
  std::vector<std::unique_ptr<ShardMailbox>> mailboxes_;
  std::vector<ShardMailbox*> raw_mailboxes_;
  std::vector<ShardNews> news_;
  std::vector<bool> knows_;
  std::unique_ptr<Registry> registry_;
  std::mutex mutex_;
  std::function<void()> posted_;
  std::thread thread_;
};

// Room for everything.
inline RegistryOptions roomy() {
  RegistryOptions options;
  options.lanes_per_shard_max = 64;
  options.descriptors_max = 1024;
  options.windows_max = 1'000'000;
  options.services_max = 16;
  return options;
}

inline void expect_refused(const Told& told, RefuseCode code, const std::string& why) {
  ASSERT_FALSE(told.ended) << "a refusal says why";
  ASSERT_EQ(told.type(), MessageType::kRefuse);
  const Result<Refuse> refuse = decode_refuse(told.message);
  ASSERT_TRUE(refuse.has_value());
  EXPECT_EQ(refuse->code, static_cast<std::uint16_t>(code)) << refuse->reason;
  EXPECT_NE(refuse->reason.find(why), std::string::npos) << refuse->reason;
  EXPECT_TRUE(told.descriptors.empty());
}

inline Welcome expect_welcome(const Told& told) {
  EXPECT_FALSE(told.ended);
  if (told.ended || told.type() != MessageType::kWelcome) {
    const Result<Refuse> refuse = decode_refuse(told.message);
    ADD_FAILURE() << "no Welcome: " << (refuse ? refuse->reason : "");
    return {};
  }
  const Result<Welcome> welcome = decode_welcome(told.message);
  EXPECT_TRUE(welcome.has_value());
  EXPECT_EQ(welcome->lanes, told.descriptors.size());
  return *welcome;
}

}  // namespace tcpmux::handoff
