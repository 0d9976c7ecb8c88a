#include "handoff/registry.h"

#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/planted.h"
#include "handoff/ancillary.h"

namespace tcpmux::handoff {
namespace {

constexpr std::int64_t kTick_ns = 10 * kNanosPerMilli;
constexpr std::int64_t kAcceptPause_ns = kNanosPerSecond;
// Connections of one user that have not registered yet: one user cannot keep all others out.
constexpr std::ptrdiff_t kSilentPerUserMax = 64;
// A backend that floods its own connection is read no further than this in one turn.
constexpr int kMessagesAtOnceMax = 16;

}  // namespace

Result<std::unique_ptr<Registry>> Registry::open(RegistryOptions options, EventLoop& loop,
                                                 std::shared_ptr<const ServiceTable> table,
                                                 std::vector<ShardMailbox*> shards) {
  Result<RegistrySocket> socket = RegistrySocket::open(options.path);
  if (!socket) return std::unexpected(socket.error());
  std::unique_ptr<Registry> registry(new Registry(std::move(options), loop, std::move(table),
                                                  std::move(shards), *std::move(socket)));
  Status added = loop.add(registry->socket_.fd(), [self = registry.get()] { self->accept(); });
  if (!added) return std::unexpected(added.error());
  registry->watch_path();
  return registry;
}

std::unique_ptr<Registry> Registry::take_over(RegistryOptions options, RegistrySocket socket,
                                              EventLoop& loop,
                                              std::shared_ptr<const ServiceTable> table,
                                              std::vector<ShardMailbox*> shards) {
  std::unique_ptr<Registry> registry(new Registry(std::move(options), loop, std::move(table),
                                                  std::move(shards), std::move(socket)));
  registry->paused_ = true;
  return registry;
}

Registry::Registry(RegistryOptions options, EventLoop& loop,
                   std::shared_ptr<const ServiceTable> table, std::vector<ShardMailbox*> shards,
                   RegistrySocket socket)
    : options_(std::move(options)),
      loop_(loop),
      table_(std::move(table)),
      shards_(std::move(shards)),
      socket_(std::move(socket)),
      outboxes_(shards_.size()),
      lanes_on_shard_(shards_.size()),
      routes_versions_(std::make_unique<std::atomic<std::uint64_t>[]>(shards_.size())) {
  loop_.add_deadline([this] { return next_tick_ns(); }, [this] { tick(); });
  loop_.add_deadline([this] { return look_at_path_ns_; }, [this] { look_at_path(); });
}

Registry::~Registry() {
  for (const auto& [id, backend] : backends_)
    loop_.remove(backend.connection.get());
  loop_.remove(socket_.watch_fd());
  loop_.remove(socket_.fd());
}

std::size_t Registry::backend_count() const {
  return static_cast<std::size_t>(std::count_if(
      backends_.begin(), backends_.end(), [](const auto& one) { return one.second.registered; }));
}

std::vector<std::string> Registry::names_of(const std::vector<ServiceId>& services) const {
  std::vector<std::string> names;
  for (const ServiceId service : services)
    names.push_back((*table_)[service].name);
  return names;
}

std::vector<BackendStatus> Registry::backends() const {
  std::vector<BackendStatus> all;
  for (const auto& [id, backend] : backends_) {
    if (!backend.registered) continue;
    all.push_back({.id = id,
                   .pid = backend.peer.pid,
                   .uid = backend.peer.uid,
                   .user = user_name(backend.peer.uid),
                   .names = names_of(backend.services),
                   .lanes = backend.lanes,
                   .window = backend.window,
                   .batch = backend.batch,
                   .draining = backend.draining,
                   .connected_ns = backend.connected_ns});
  }
  return all;
}

void Registry::accept() {
  OwnFd connection = socket_.accept();
  if (!connection.valid()) {
    if (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR) return;
    // Out of descriptors or memory: whoever waits is reported again and again, so we look away
    // for a moment.
    SPDLOG_ERROR("registry: accept: {}", std::strerror(errno));
    loop_.remove(socket_.fd());
    accept_paused_until_ns_ = monotonic_ns() + kAcceptPause_ns;
    return;
  }
  Result<Credentials> peer = credentials_of(connection.get());
  if (!peer) {
    SPDLOG_ERROR("registry: {}", peer.error().message);
    return;
  }
  const std::uint64_t id = next_id_++;
  if (Status added = loop_.add(connection.get(), [this, id] { readable(id); }); !added) {
    SPDLOG_ERROR("registry: {}", added.error().message);
    return;
  }
  Backend& backend = backends_[id];
  backend.id = id;
  backend.connection = std::move(connection);
  backend.peer = *std::move(peer);
  backend.connected_ns = monotonic_ns();
  ++descriptors_used_;
  if (shutting_down_) {
    refuse(backend, {RefuseCode::kShuttingDown, "the mux is shutting down; try again later"});
  } else if (descriptors_used_ > options_.descriptors_max) {
    refuse(backend, {RefuseCode::kNoRoom,
                     "no descriptors are left for more backends; raise the descriptor limit of "
                     "tcpmuxd (ulimit -n, LimitNOFILE=)"});
  } else if (std::count_if(backends_.begin(), backends_.end(), [&](const auto& one) {
               return !one.second.registered && one.second.peer.uid == backend.peer.uid;
             }) > kSilentPerUserMax) {
    refuse(backend,
           {RefuseCode::kNoRoom, "too many connections of this user have not registered yet"});
  }
}

void Registry::readable(std::uint64_t id) {
  std::array<std::byte, kMessageBytesMax> buffer;
  for (int i = 0; i < kMessagesAtOnceMax; ++i) {
    const auto found = backends_.find(id);
    if (found == backends_.end()) return;
    Backend& backend = found->second;
    const Received received =
        tcpmux::handoff::receive(backend.connection.get(), buffer, {}, MSG_DONTWAIT);
    switch (received.kind) {
      case Received::Kind::kEmpty:
        return;
      case Received::Kind::kEnd:
        end(id, "its connection ended");
        return;
      case Received::Kind::kError:
        end(id, std::string("its connection failed: ") + std::strerror(received.error));
        return;
      case Received::Kind::kMessage:
        handle(backend, std::span(buffer).first(received.bytes));
    }
  }
}

void Registry::handle(Backend& backend, std::span<const std::byte> message) {
  const std::optional<Header> header = decode_header(message);
  if (!header) {
    refuse(backend, {RefuseCode::kMalformed, "the message does not begin with the magic TMUX"});
    return;
  }
  if (header->version != kProtocolVersion) {
    refuse(backend, {RefuseCode::kVersion, "version " + std::to_string(header->version) +
                                               " is not spoken here; version 1 is"});
    return;
  }
  switch (static_cast<MessageType>(header->type)) {
    case MessageType::kRegister:
      handle_register(backend, message);
      return;
    case MessageType::kDrain:
      drain(backend);
      return;
    case MessageType::kGoodbye: {
      const std::string reason(plain_reason(message));
      end(backend.id, reason.empty() ? "it said goodbye" : "it said goodbye: " + reason);
      return;
    }
    case MessageType::kWelcome:
    case MessageType::kRefuse:
    case MessageType::kHandoff:
    case MessageType::kProbe:
      break;
  }
  // Of a later protocol, or not meant for us: ignored.
}

// The reason goes to the backend and to the log; then the backend's registration ends.
void Registry::refuse(Backend& backend, const Refused& refused) {
  SPDLOG_WARN("registry: refused pid {} (uid {}): {}", backend.peer.pid, backend.peer.uid,
              refused.reason);
  const std::vector<std::byte> message =
      encode(Refuse{.code = static_cast<std::uint16_t>(refused.code), .reason = refused.reason});
  // A backend that does not read, or is gone, does not learn why.
  [[maybe_unused]] const int error = send_now(backend.connection.get(), message, {});
  end(backend.id, "it was refused: " + refused.reason);
}

void Registry::end(std::uint64_t id, const std::string& why) {
  const auto found = backends_.find(id);
  TCPMUX_CHECK(found != backends_.end(), "a backend ends once");
  Backend backend = std::move(found->second);
  loop_.remove(backend.connection.get());
  backends_.erase(found);
  --descriptors_used_;
  if (!backend.registered) return;
  SPDLOG_INFO("backend {} (pid {}) no longer serves {}: {}", id, backend.peer.pid, backend.names,
              why);
  // First the others, so that what is taken back has somewhere to go.
  send_routes(backend.services);
  for (std::size_t shard = 0; shard < shards_.size(); ++shard) {
    ShardMessage message;
    message.kind = ShardMessage::Kind::kSink;
    message.sink = std::make_unique<BackendCommand>(RouterMessage::Kind::kBackendGone, id);
    post(shard, std::move(message));
  }
}

void Registry::drain(Backend& backend) {
  if (!backend.registered || std::exchange(backend.draining, true)) return;
  SPDLOG_INFO("backend {} (pid {}) drains: it takes no more for {}", backend.id, backend.peer.pid,
              backend.names);
  send_routes(backend.services);
  for (std::size_t shard = 0; shard < shards_.size(); ++shard) {
    ShardMessage message;
    message.kind = ShardMessage::Kind::kSink;
    message.sink = std::make_unique<BackendCommand>(RouterMessage::Kind::kDrainBackend, backend.id);
    post(shard, std::move(message));
  }
}

void Registry::send_routes(const std::vector<ServiceId>& services) {
  std::vector<RoutesCommand::Entry> entries;
  for (const ServiceId service : services) {
    RoutesCommand::Entry entry{.service = service};
    for (const auto& [id, backend] : backends_) {
      const auto& served = backend.services;
      if (backend.draining || std::find(served.begin(), served.end(), service) == served.end())
        continue;
      entry.shards |= backend.shards;
      ++entry.backends;
    }
    entries.push_back(entry);
  }
  ++routes_version_;
  for (std::size_t shard = 0; shard < shards_.size(); ++shard) {
    ShardMessage message;
    message.kind = ShardMessage::Kind::kSink;
    auto command = std::make_unique<RoutesCommand>();
    command->entries = entries;
    command->version = routes_version_;
    message.sink = std::move(command);
    post(shard, std::move(message));
  }
}

// Never lost and never out of order: what a full mailbox refuses waits here.
void Registry::post(std::size_t shard, ShardMessage message) {
  outboxes_[shard].push_back(std::move(message));
  flush_outboxes();
}

void Registry::flush_outboxes() {
  for (std::size_t shard = 0; shard < shards_.size(); ++shard) {
    std::deque<ShardMessage>& outbox = outboxes_[shard];
    while (!outbox.empty() && shards_[shard]->send(std::move(outbox.front())))
      outbox.pop_front();
  }
}

// While something waits that nobody tells us of; else the time at which someone has been silent for
// too long. A registry at rest does not wake the machine up.
std::int64_t Registry::next_tick_ns() const {
  std::int64_t next_ns = paused_ ? kNever_ns : accept_paused_until_ns_;
  bool waits = std::any_of(outboxes_.begin(), outboxes_.end(),
                           [](const auto& outbox) { return !outbox.empty(); });
  for (const auto& [id, backend] : backends_) {
    waits |= backend.welcome_at_version != 0;
    if (!backend.registered && !paused_)
      next_ns = std::min(next_ns, backend.connected_ns + options_.register_within_ns + 1);
  }
  return waits ? std::min(next_ns, ticked_at_ns_ + kTick_ns) : next_ns;
}

void Registry::tick() {
  ticked_at_ns_ = monotonic_ns();
  flush_outboxes();
  send_due_welcomes();
  if (paused_) return;
  const std::int64_t now_ns = monotonic_ns();
  if (accept_paused_until_ns_ <= now_ns) {
    const Status resumed = loop_.add(socket_.fd(), [this] { accept(); });
    accept_paused_until_ns_ = resumed ? kNever_ns : now_ns + kAcceptPause_ns;
  }
  std::vector<std::uint64_t> silent;
  for (const auto& [id, backend] : backends_)
    if (!backend.registered && backend.connected_ns + options_.register_within_ns < now_ns)
      silent.push_back(id);
  for (const std::uint64_t id : silent)
    refuse(backends_.at(id),
           {RefuseCode::kMalformed, "no Register came within 10 seconds of connecting"});
}

void Registry::send_due_welcomes() {
  std::uint64_t everywhere = routes_version_;
  for (std::size_t shard = 0; shard < shards_.size(); ++shard)
    everywhere = std::min(everywhere, routes_versions_[shard].load(std::memory_order_acquire));
  std::vector<std::uint64_t> failed;
  for (auto& [id, backend] : backends_)
    if (backend.welcome_at_version != 0 &&
        (backend.welcome_at_version <= everywhere || planted(Bug::kWelcomeTooEarly)))
      if (!welcome(backend)) failed.push_back(id);
  for (const std::uint64_t id : failed)
    end(id, "its Welcome cannot be sent");
}

// A lane has ended: its descriptors, its place and its window are free. Or all are given away.
void Registry::receive(std::unique_ptr<SinkMessage> message) {
  if (paused_) {
    away_.emplace_back(static_cast<Lane*>(message.release()));
    return;
  }
  const auto& lane = static_cast<const Lane&>(*message);
  descriptors_used_ -= 2;
  windows_used_ -= lane.setup.window;
  --lanes_on_shard_[lane.shard];
}

void Registry::receive_notice(const StewardMessage& notice) {
  if (static_cast<LaneNotice>(notice.detail) == LaneNotice::kRoutes) {
    send_due_welcomes();
    return;
  }
  const auto found = backends_.find(notice.number);
  const std::string who = found == backends_.end()
                              ? "backend " + std::to_string(notice.number)
                              : "backend " + std::to_string(notice.number) + " (pid " +
                                    std::to_string(found->second.peer.pid) + ", " +
                                    found->second.names + ")";
  switch (static_cast<LaneNotice>(notice.detail)) {
    case LaneNotice::kBroken:
      if (found != backends_.end())
        end(notice.number, std::string("its lane cannot be written: ") +
                               std::strerror(static_cast<int>(notice.amount)));
      return;
    case LaneNotice::kStalled:
      SPDLOG_WARN("{} is stalled: {} sockets wait in a lane that does not move", who,
                  notice.amount);
      return;
    case LaneNotice::kResumed:
      SPDLOG_INFO("{} moves again", who);
      return;
    case LaneNotice::kTakenBack:
      SPDLOG_WARN("{}: {} sockets that it never received were taken back", who, notice.amount);
      return;
    case LaneNotice::kRoutes:  // above
      return;
  }
}

void Registry::begin_shutdown() {
  if (given_up_) return;
  shutting_down_ = true;
  const std::vector<std::byte> message =
      encode_plain(MessageType::kDrain, "the mux is shutting down");
  for (const auto& [id, backend] : backends_) {
    // One that does not read is told by the end of its connection.
    [[maybe_unused]] const int error = send_now(backend.connection.get(), message, {});
  }
}

void Registry::say_goodbye() {
  if (given_up_) return;
  const std::vector<std::byte> message =
      encode_plain(MessageType::kGoodbye, "the mux is shutting down");
  for (const auto& [id, backend] : backends_) {
    [[maybe_unused]] const int error = send_now(backend.connection.get(), message, {});
  }
}

}  // namespace tcpmux::handoff
