#include "handoff/takeover.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>

#include <unistd.h>

namespace tcpmux::handoff {
namespace {

using nlohmann::json;

// The other one answers at once, unless it is stopped.
constexpr std::int64_t kPatience_ms = 30'000;
constexpr int kClientsAtOnceMax = 64;

// What the other one says is made by a program like us; where it is not, we say so and end.
template <class Work>
Status guarded(Work work) {
  try {
    return work();
  } catch (const json::exception& error) {
    return fail(std::string("the daemon to be replaced speaks otherwise than we: ") + error.what());
  }
}

}  // namespace

Result<std::optional<Takeover>> Takeover::from_environment() {
  const char* const text = std::getenv(kUpgradeVariable);
  if (text == nullptr) return std::nullopt;
  int fd = -1;
  const auto [end, error] = std::from_chars(text, text + std::strlen(text), fd);
  const bool is_number = error == std::errc{} && *end == '\0' && fd >= 0;
  ::unsetenv(kUpgradeVariable);
  if (!is_number || ::fcntl(fd, F_GETFD) < 0)
    return fail(std::string(kUpgradeVariable) +
                " is not the number of an open descriptor; it is set by tcpmuxd alone (unset it)");
  auto channel = UpgradeChannel::from(OwnFd(fd));
  if (!channel) return std::unexpected(channel.error());
  Result<Guardian> guardian = Guardian::fork_off();
  if (!guardian) return std::unexpected(guardian.error());
  return Takeover(*std::move(channel), *std::move(guardian));
}

Status Takeover::receive_offer() {
  for (;;) {
    auto message = channel_.receive(kPatience_ms);
    if (!message) return std::unexpected(message.error());
    if (!*message) return fail("the daemon to be replaced has ended");
    if ((*message)->kind == "offered") return {};
    Status taken = guarded([&] { return receive_offer_message(**std::move(message)); });
    if (!taken) return taken;
  }
}

Status Takeover::receive_offer_message(UpgradeMessage message) {
  if (message.kind == "offer") {
    const int version = message.body.at("version");
    if (version != kUpgradeVersion)
      return fail("the daemon to be replaced speaks version " + std::to_string(version) +
                  " of the takeover, we speak " + std::to_string(kUpgradeVersion) +
                  ": restart it instead");
    if (message.descriptors.size() != 2) return fail("the offer came without the registry");
    registry_path_ = message.body.at("registry");
    lane_count_ = message.body.at("lanes");
    registry_lock_ = std::move(message.descriptors[0]);
    registry_socket_ = std::move(message.descriptors[1]);
    return {};
  }
  if (message.kind != "address") return {};
  OfferedAddress address{.inherited = message.body.at("inherited")};
  const auto wanted = parse_endpoint(message.body.at("wanted").get<std::string>());
  const auto real = parse_endpoint(message.body.at("real").get<std::string>());
  if (!wanted || !real || message.descriptors.empty()) return fail("an address came without one");
  address.wanted = *wanted;
  address.real = *real;
  address.sockets = std::move(message.descriptors);
  addresses_.push_back(std::move(address));
  return {};
}

RegistrySocket Takeover::take_registry() {
  return RegistrySocket::take_over(registry_path_, std::move(registry_lock_),
                                   std::move(registry_socket_));
}

Status Takeover::take_everything(Registry& registry) {
  if (Status said = channel_.send({{"kind", "ready"}}, {}); !said)
    return fail("the daemon to be replaced has ended: " + said.error().message);
  for (;;) {
    auto message = channel_.receive(kPatience_ms);
    if (!message) return std::unexpected(message.error());
    if (!*message) return fail("the daemon to be replaced has changed its mind, or ended");
    const bool is_last = (*message)->kind == "end";
    Status taken = guarded(
        [&] { return registry.inherit((*message)->body, std::move((*message)->descriptors)); });
    if (!taken || is_last) return taken;
  }
}

Status Takeover::serving() {
  guardian_.let_go();
  Status said = channel_.send({{"kind", "serving"}, {"pid", ::getpid()}}, {});
  const bool has_ended = !said && (said.error().code == EPIPE || said.error().code == ECONNRESET);
  if (!has_ended) return said;
  SPDLOG_WARN("the daemon before us has ended just now: {}", said.error().message);
  return {};
}

void Takeover::failed(const std::string& why) {
  // It may be that the other one has gone, which is why.
  [[maybe_unused]] const Status said = channel_.send({{"kind", "failed"}, {"error", why}}, {});
}

Status Takeover::listen(EventLoop& loop, TakeClient client, std::function<void()> gone) {
  loop_ = &loop;
  take_client_ = std::move(client);
  gone_ = std::move(gone);
  return loop.add(channel_.fd(), [this] { receive_client(); });
}

void Takeover::receive_client() {
  for (int i = 0; i < kClientsAtOnceMax; ++i) {
    auto message = channel_.receive(0);
    if (!message && message.error().code == EAGAIN) return;
    if (!message || !*message) {
      if (!message) SPDLOG_WARN("the daemon before us: {}", message.error().message);
      loop_->remove(channel_.fd());
      gone_();
      return;
    }
    if ((*message)->kind != "client" || (*message)->descriptors.size() != 1) continue;
    const Status taken = guarded([&]() -> Status {
      const std::string service = (*message)->body.at("service");
      take_client_(client_from((*message)->body, std::move((*message)->descriptors[0])), service);
      return {};
    });
    if (!taken) SPDLOG_ERROR("{}", taken.error().message);
  }
}

}  // namespace tcpmux::handoff
