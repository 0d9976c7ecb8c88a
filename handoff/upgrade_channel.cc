#include "handoff/upgrade_channel.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <thread>

#include "core/base/clock.h"
#include "handoff/ancillary.h"

namespace tcpmux::handoff {
namespace {

using nlohmann::json;

// The longest is a lane whose queue is full of messages with one socket each.
constexpr std::size_t kBytesMax = std::size_t{512} << 10;
constexpr std::int64_t kPatience_ns = 10 * kNanosPerSecond;

// POLLIN or POLLOUT; false when the time is over.
bool wait_for(int fd, short what, std::int64_t until_ns) {
  for (;;) {
    const std::int64_t left_ns = until_ns - monotonic_ns();
    if (left_ns <= 0) return false;
    pollfd one{.fd = fd, .events = what, .revents = 0};
    const int count = ::poll(&one, 1, static_cast<int>(left_ns / kNanosPerMilli) + 1);
    if (count > 0) return true;
    if (count < 0 && errno != EINTR) return false;
  }
}

}  // namespace

Result<UpgradeChannel::Pair> UpgradeChannel::make_pair() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
    return fail_errno("socketpair");
  Pair pair{.ours = UpgradeChannel(OwnFd(ends[0])), .theirs = OwnFd(ends[1])};
  // A message has to fit; as much as we may have is as good as what we ask for (socket(7)).
  const int bytes = static_cast<int>(kBytesMax);
  if (::setsockopt(ends[0], SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) < 0 &&
      ::setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes) < 0)
    return fail_errno("setsockopt(SO_SNDBUF)");
  return pair;
}

Result<UpgradeChannel> UpgradeChannel::from(OwnFd socket) {
  int type = 0;
  socklen_t size = sizeof type;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_SEQPACKET)
    return fail(std::string(kUpgradeVariable) +
                " does not name a socket of a tcpmuxd that is to be replaced; it is set by tcpmuxd "
                "alone (unset it)");
  if (::fcntl(socket.get(), F_SETFD, FD_CLOEXEC) < 0) return fail_errno("fcntl(F_SETFD)");
  return UpgradeChannel(std::move(socket));
}

Status UpgradeChannel::send(const json& body, std::span<const int> descriptors) {
  const std::string text = body.dump(-1, ' ', false, json::error_handler_t::replace);
  const std::int64_t until_ns = monotonic_ns() + kPatience_ns;
  for (;;) {
    const int error = send_now(socket_.get(), std::as_bytes(std::span(text)), descriptors);
    if (error == 0) return {};
    // ETOOMANYREFS: POLLOUT stays set, so time is what we wait for (Linux 6.18).
    if (error == ETOOMANYREFS) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    if ((error != EAGAIN && error != ETOOMANYREFS) || !wait_for(socket_.get(), POLLOUT, until_ns))
      return std::unexpected(system_error("the other process cannot be told more", error));
  }
}

Result<std::optional<UpgradeMessage>> UpgradeChannel::receive(std::int64_t timeout_ms) {
  const std::int64_t until_ns = monotonic_ns() + timeout_ms * kNanosPerMilli;
  std::vector<std::byte> buffer(kBytesMax);
  std::array<OwnFd, kDescriptorsMax> places;
  for (;;) {
    const Received received = handoff::receive(socket_.get(), buffer, places, MSG_DONTWAIT);
    if (received.kind == Received::Kind::kEnd) return std::nullopt;
    if (received.kind == Received::Kind::kError)
      return std::unexpected(system_error("the other process cannot be heard", received.error));
    if (received.kind == Received::Kind::kEmpty) {
      if (timeout_ms == 0) return fail("nothing was said", EAGAIN);
      if (wait_for(socket_.get(), POLLIN, until_ns)) continue;
      return fail("the other process has said nothing for " + std::to_string(timeout_ms / 1000) +
                      " seconds",
                  ETIMEDOUT);
    }
    if (received.descriptors_lost || received.payload_truncated)
      return fail("a message of the other process did not arrive whole");
    UpgradeMessage message;
    const char* const text = reinterpret_cast<const char*>(buffer.data());
    message.body = json::parse(text, text + received.bytes, nullptr, false);
    if (!message.body.is_object() || !message.body.contains("kind") ||
        !message.body["kind"].is_string())
      return fail("the other process said something that is no message");
    message.kind = message.body["kind"];
    for (std::size_t i = 0; i < received.descriptors; ++i)
      message.descriptors.push_back(std::move(places[i]));
    return message;
  }
}

json client_state(const PassedConnection& connection, const std::string& service) {
  const auto words = [](const Endpoint& endpoint) {
    return endpoint.address.family == IpAddress::Family::kNone ? "" : to_string(endpoint);
  };
  return {{"kind", "client"},
          {"service", service},
          {"line_bytes", connection.line_bytes},
          {"was_accepted", connection.was_accepted},
          {"source", words(connection.source)},
          {"destination", words(connection.destination)},
          {"accepted_ns", connection.accepted_ns},
          {"deadline_ns", connection.deadline_ns}};
}

PassedConnection client_from(const json& state, OwnFd socket) {
  PassedConnection connection;
  connection.line_bytes = state.at("line_bytes");
  connection.was_accepted = state.at("was_accepted");
  // Where there is none, the kernel is asked when it is wanted.
  connection.source = parse_endpoint(state.at("source").get<std::string>()).value_or(Endpoint{});
  connection.destination =
      parse_endpoint(state.at("destination").get<std::string>()).value_or(Endpoint{});
  connection.accepted_ns = state.at("accepted_ns");
  connection.deadline_ns = state.at("deadline_ns");
  connection.socket = std::move(socket);
  return connection;
}

}  // namespace tcpmux::handoff
