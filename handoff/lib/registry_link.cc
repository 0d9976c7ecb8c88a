#include "handoff/lib/registry_link.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include "handoff/ancillary.h"

namespace tcpmux::handoff {
namespace {

using Kind = RegistryEvent::Kind;

Error connect_error(const std::string& path, int code) {
  Error error = system_error("connect to the mux at " + path, code);
  if (code == ENOENT || code == ECONNREFUSED) error.message += " (is tcpmuxd running?)";
  if (code == EACCES) error.message += " (this user may not open the registry's socket)";
  return error;
}

RegistryEvent malformed(const std::string& why) {
  RegistryEvent event;
  event.kind = Kind::kMalformed;
  event.text = "the mux sent what cannot be understood: " + why;
  return event;
}

RegistryEvent take_welcome(std::span<const std::byte> message, RegistryEvent event,
                           const Received& received) {
  const Result<Welcome> welcome = decode_welcome(message);
  if (!welcome) return malformed(welcome.error().message);
  if (received.descriptors_lost) {
    event.kind = Kind::kNoDescriptors;
    event.text = "no room in the descriptor table for the mux's lanes: raise RLIMIT_NOFILE";
    return event;
  }
  if (welcome->lanes == 0 || welcome->lanes != received.descriptors)
    return malformed("a Welcome of " + std::to_string(welcome->lanes) + " lanes came with " +
                     std::to_string(received.descriptors) + " descriptors");
  if (welcome->batch < 1 || welcome->batch > kSocketsPerMessageMax)
    return malformed("a Welcome with batch " + std::to_string(welcome->batch));
  event.kind = Kind::kWelcome;
  event.welcome = *welcome;
  return event;
}

RegistryEvent take_message(std::span<const std::byte> message, RegistryEvent event,
                           const Received& received) {
  const std::optional<Header> header = decode_header(message);
  if (!header) return malformed("a message without its header");
  if (header->type == static_cast<std::uint8_t>(MessageType::kRefuse)) {
    event.kind = Kind::kRefuse;
    event.refuse = *decode_refuse(message);  // needs no more than the header
    event.text = event.refuse.reason;
    return event;
  }
  // Only a Refuse may be of another version: it says that ours is not spoken.
  if (header->version != kProtocolVersion)
    return malformed("a message of version " + std::to_string(header->version));
  if (header->type == static_cast<std::uint8_t>(MessageType::kWelcome))
    return take_welcome(message, std::move(event), received);
  if (header->type == static_cast<std::uint8_t>(MessageType::kDrain)) event.kind = Kind::kDrain;
  if (header->type == static_cast<std::uint8_t>(MessageType::kGoodbye)) event.kind = Kind::kGoodbye;
  event.text = plain_reason(message);
  return event;
}

}  // namespace

Status RegistryLink::open(const std::string& path, std::span<const std::byte> registration) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path)
    return fail("the registry's path must have 1 to 107 bytes: \"" + path + "\"", EINVAL);
  std::memcpy(address.sun_path, path.data(), path.size());

  OwnFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return fail_errno("socket for the registry");
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
    return std::unexpected(connect_error(path, errno));
  if (const int code = send_now(socket.get(), registration, {}); code != 0)
    return std::unexpected(system_error("register with the mux at " + path, code));
  socket_ = std::move(socket);
  return {};
}

RegistryEvent RegistryLink::receive(std::span<std::byte> buffer) {
  RegistryEvent event;
  const Received received =
      handoff::receive(socket_.get(), buffer, std::span<OwnFd>(event.lanes), MSG_DONTWAIT);
  switch (received.kind) {
    case Received::Kind::kEmpty:
      return event;
    case Received::Kind::kEnd:
    case Received::Kind::kError:
      event.kind = Kind::kGone;
      return event;
    case Received::Kind::kMessage:
      return take_message(buffer.first(received.bytes), std::move(event), received);
  }
  return event;
}

void RegistryLink::say(MessageType type) {
  if (connected()) send_now(socket_.get(), encode_plain(type), {});
}

}  // namespace tcpmux::handoff
