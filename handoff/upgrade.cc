#include "handoff/upgrade.h"

#include <spawn.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <thread>

#include "core/mux/reply.h"

extern char** environ;

namespace tcpmux::handoff {
namespace {

// A configuration with a million services takes some seconds to read.
constexpr std::int64_t kStart_ns = 60 * kNanosPerSecond;
constexpr std::int64_t kHandOver_ns = 15 * kNanosPerSecond;
constexpr std::int64_t kLook_ns = 2 * kNanosPerMilli;
constexpr int kExitPatience_ms = 1000;

// Our environment, without what is of one process, and with the number of the channel.
std::vector<std::string> environment_for(int channel) {
  const std::string ours = std::string(kUpgradeVariable) + "=";
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    if (!text.starts_with("LISTEN_") && !text.starts_with(ours)) all.emplace_back(text);
  }
  all.push_back(ours + std::to_string(channel));
  return all;
}

std::vector<char*> pointers_to(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts)
    pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

std::string ending(int status) {
  if (WIFSIGNALED(status)) return std::string("it was ended by ") + ::strsignal(WTERMSIG(status));
  return "it ended with status " + std::to_string(WEXITSTATUS(status));
}

// Waits for the end of a child that is expected to end, and says how it did.
std::string reap(pid_t child) {
  int status = 0;
  pid_t ended = 0;
  for (int waited_ms = 0; ended == 0 && waited_ms < kExitPatience_ms; ++waited_ms) {
    ended = ::waitpid(child, &status, WNOHANG);
    if (ended == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const bool killed = ended == 0 && ::kill(child, SIGKILL) == 0;
  if (killed) ended = ::waitpid(child, &status, 0);
  if (killed) return "it did not end by itself, and was killed";
  return ended > 0 ? ending(status) : "";
}

}  // namespace

Upgrade::Upgrade(UpgradeParts parts) : parts_(std::move(parts)) {
  parts_.loop.add_deadline([this] { return deadline_ns_; }, [this] { tick(); });
}

void Upgrade::begin(const std::vector<ListenAddress>& addresses, Done done) {
  if (is_under_way()) {
    done(fail("an upgrade is under way"));
    return;
  }
  if (is_leaving()) {
    done(fail("pid " + std::to_string(successor_) + " has taken over already"));
    return;
  }
  done_ = std::move(done);
  SPDLOG_INFO("upgrade: starting {}", parts_.program);
  enter(Phase::kStarting);
  if (Status started = start(addresses); !started) fail_with(started.error().message);
}

Status Upgrade::start(const std::vector<ListenAddress>& addresses) {
  auto pair = UpgradeChannel::make_pair();
  if (!pair) return std::unexpected(pair.error());
  channel_ = std::move(pair->ours);
  if (Status spawned = spawn(pair->theirs.get()); !spawned) return spawned;
  pair->theirs.reset();
  if (Status offered = offer(addresses); !offered) return offered;
  return parts_.loop.add(channel_->fd(), [this] { hear(); });
}

// It inherits the standard streams and the channel, and no signal mask.
Status Upgrade::spawn(int channel) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  sigset_t none;
  ::sigemptyset(&none);
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawnattr_init(&attributes);
  // The same number twice: the copy is the one without close-on-exec (posix_spawn(3)).
  int error = ::posix_spawn_file_actions_adddup2(&actions, channel, channel);
  if (error == 0) error = ::posix_spawnattr_setsigmask(&attributes, &none);
  if (error == 0) error = ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  std::vector<std::string> environment = environment_for(channel);
  if (error == 0)
    error = ::posix_spawn(&successor_, parts_.program.c_str(), &actions, &attributes,
                          pointers_to(parts_.arguments).data(), pointers_to(environment).data());
  ::posix_spawn_file_actions_destroy(&actions);
  ::posix_spawnattr_destroy(&attributes);
  if (error == 0) return {};
  successor_ = 0;
  return std::unexpected(system_error("cannot start " + parts_.program, error));
}

Status Upgrade::offer(const std::vector<ListenAddress>& addresses) {
  const Registry& registry = parts_.registry;
  const std::array<int, 2> of_registry = {registry.lock_fd(), registry.socket_fd()};
  Status said = channel_->send({{"kind", "offer"},
                                {"version", kUpgradeVersion},
                                {"program", std::string("tcpmuxd ") + TCPMUX_VERSION},
                                {"registry", registry.path()},
                                {"lanes", registry.lane_count()}},
                               of_registry);
  for (const ListenAddress& address : addresses) {
    if (!said) return said;
    said = channel_->send({{"kind", "address"},
                           {"wanted", to_string(address.wanted)},
                           {"real", to_string(address.real)},
                           {"inherited", address.inherited}},
                          address.sockets);
  }
  if (said) said = channel_->send({{"kind", "offered"}}, {});
  return said;
}

void Upgrade::enter(Phase phase) {
  phase_ = phase;
  switch (phase) {
    case Phase::kStarting:
      deadline_ns_ = monotonic_ns() + kStart_ns;
      return;
    case Phase::kSettling:
      deadline_ns_ = monotonic_ns() + kLook_ns;
      return;
    case Phase::kPausing:
    case Phase::kGiving:
      deadline_ns_ = monotonic_ns() + kHandOver_ns;
      return;
    case Phase::kIdle:
    case Phase::kAborting:
    case Phase::kLeaving:
      deadline_ns_ = kNever_ns;
      return;
  }
}

void Upgrade::hear() {
  auto message = channel_->receive(0);
  if (!message && message.error().code == EAGAIN) return;
  if (message && *message && (*message)->kind == "ready" && phase_ == Phase::kStarting) {
    parts_.registry.pause();
    enter(Phase::kSettling);
    return;
  }
  if (message && *message && (*message)->kind == "serving" && phase_ == Phase::kGiving) {
    leave((*message)->body.value("pid", successor_));
    return;
  }
  if (phase_ == Phase::kLeaving) {
    parts_.loop.remove(channel_->fd());
    SPDLOG_ERROR("upgrade: pid {} has ended before we have", successor_);
    return;
  }
  std::string why = "it said something unexpected";
  if (!message) why = message.error().message;
  if (message && !*message) why = "it ended before it served; what it said stands above";
  if (message && *message && (*message)->kind == "failed")
    why = (*message)->body.value("error", "it failed");
  fail_with(why);
}

void Upgrade::tick() {
  if (phase_ == Phase::kStarting || phase_ == Phase::kGiving || phase_ == Phase::kPausing) {
    fail_with("it was not ready in time");
    return;
  }
  if (phase_ != Phase::kSettling) return;
  if (!parts_.registry.at_rest()) {
    enter(Phase::kSettling);
    return;
  }
  enter(Phase::kPausing);
  shards_paused_ = 0;
  parts_.shards.send_all([] {
    ShardMessage message;
    message.kind = ShardMessage::Kind::kPause;
    return message;
  });
}

void Upgrade::shard_paused() {
  if (++shards_paused_ < parts_.shards.size()) return;
  if (phase_ == Phase::kPausing) give();
  if (phase_ == Phase::kAborting) resume();
}

void Upgrade::give() {
  enter(Phase::kGiving);
  Status said;
  parts_.registry.give([&](const nlohmann::json& state, std::span<const int> descriptors) {
    if (said) said = channel_->send(state, descriptors);
  });
  if (!said) fail_with(said.error().message);
}

// What we started was the successor's guardian (guardian.h), which has been told to end.
void Upgrade::leave(pid_t successor) {
  enter(Phase::kLeaving);
  reap(std::exchange(successor_, successor));
  SPDLOG_INFO("upgrade: pid {} serves; finishing what is under way", successor_);
  parts_.registry.give_up();
  parts_.shards.send_all([] {
    ShardMessage message;
    message.kind = ShardMessage::Kind::kLeave;
    return message;
  });
  std::exchange(done_, {})(successor_);
}

// The successor serves, so what cannot be passed on to it could not be served by us either.
void Upgrade::pass_on(PassedConnection connection) {
  const ServiceTable& table = parts_.registry.table();
  const std::string service =
      connection.service == kNoService ? std::string() : table[connection.service].name;
  const int socket = connection.socket.get();
  const Status said = channel_->send(client_state(connection, service), std::span(&socket, 1));
  if (said) return;
  SPDLOG_ERROR("upgrade: a client cannot be passed on: {}", said.error().message);
  const std::string_view sorry = refusal_reply(Refusal::kShuttingDown);
  if (!connection.was_accepted) [[maybe_unused]]
    const ssize_t told = ::send(socket, sorry.data(), sorry.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

void Upgrade::abort(const std::string& why) {
  if (is_under_way() && phase_ != Phase::kAborting) fail_with(why);
}

// Lanes come back with the last report of a shard, so that is what going on waits for.
void Upgrade::fail_with(const std::string& why) {
  const Phase before = phase_;
  const std::string end = end_successor();
  why_aborted_ = "the new binary does not serve: " + why + (end.empty() ? "" : " (" + end + ")") +
                 "; we go on";
  enter(Phase::kAborting);
  if (before == Phase::kSettling) parts_.registry.resume();
  if (before == Phase::kStarting || before == Phase::kSettling) {
    go_on();
  } else if (shards_paused_ == parts_.shards.size()) {
    resume();
  }
}

void Upgrade::resume() {
  parts_.registry.resume();
  parts_.shards.send_all([] {
    ShardMessage message;
    message.kind = ShardMessage::Kind::kResume;
    return message;
  });
  go_on();
}

void Upgrade::go_on() {
  enter(Phase::kIdle);
  if (done_) std::exchange(done_, {})(fail(why_aborted_));
}

// How it ended; nothing when it was never started.
std::string Upgrade::end_successor() {
  if (channel_) parts_.loop.remove(channel_->fd());
  channel_.reset();
  const pid_t successor = std::exchange(successor_, 0);
  return successor == 0 ? "" : reap(successor);
}

}  // namespace tcpmux::handoff
