// The bytes of handoff/PROTOCOL.md, both directions: pure functions over caller's buffers. The mux
// and libtcpmux share them. Encoding and decoding a handoff allocates nothing.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/address.h"
#include "core/base/result.h"

namespace tcpmux::handoff {

inline constexpr std::uint8_t kProtocolVersion = 1;
inline constexpr std::size_t kHeaderBytes = 8;
inline constexpr std::size_t kMessageBytesMax = 16'384;  // what a receiver must provide
inline constexpr std::size_t kSocketsPerMessageMax = 64;
inline constexpr std::size_t kLanesMax = 64;
inline constexpr std::size_t kNamesMax = 64;

enum class MessageType : std::uint8_t {
  kRegister = 1,
  kWelcome = 2,
  kRefuse = 3,
  kHandoff = 4,
  kDrain = 5,
  kGoodbye = 6,
  kProbe = 7,
};

struct Header {
  std::uint8_t version = kProtocolVersion;
  std::uint8_t type = 0;  // a MessageType, or one of a later version
  std::uint16_t count = 0;
};
// Nothing when there is no magic or fewer than 8 bytes.
std::optional<Header> decode_header(std::span<const std::byte> message);

enum class LaneKind : std::uint16_t { kMessages = 0, kRawSeqpacket = 1, kRawStream = 2 };

struct Register {
  std::uint32_t window = 0;
  std::uint16_t batch = 1;
  std::uint16_t lanes = 0;
  LaneKind lane_kind = LaneKind::kMessages;
  bool without_addresses = false;
  std::vector<std::string> names;
};
std::vector<std::byte> encode(const Register& message);
// The error's message says which field is wrong.
Result<Register> decode_register(std::span<const std::byte> message);

struct Welcome {
  std::uint16_t lanes = 0;
  std::uint32_t window = 0;
  std::uint16_t batch = 1;
};
std::vector<std::byte> encode(const Welcome& message);
Result<Welcome> decode_welcome(std::span<const std::byte> message);

enum class RefuseCode : std::uint16_t {
  kMalformed = 1,
  kVersion = 2,
  kNotAllowed = 3,
  kUnknownService = 4,
  kBadName = 5,
  kNoRoom = 6,
  kShuttingDown = 7,
};
struct Refuse {
  std::uint16_t code = 0;  // a RefuseCode, or one of a later version
  std::string reason;
};
std::vector<std::byte> encode(const Refuse& message);
Result<Refuse> decode_refuse(std::span<const std::byte> message);

// Drain, Goodbye, Probe: the header and perhaps a reason.
std::vector<std::byte> encode_plain(MessageType type, std::string_view reason = {});
// A Probe, without allocating; `buffer` holds kHeaderBytes. Gives its length.
std::size_t encode_probe(std::span<std::byte> buffer);
std::string_view plain_reason(std::span<const std::byte> message);

using ConnectionId = std::array<std::uint8_t, 16>;

// What a backend is told of one socket.
struct Facts {
  Endpoint source;       // the client; family kNone where it is not known
  Endpoint destination;  // what the client connected to
  std::string_view service;
  ConnectionId id{};
  std::int64_t accepted_ns = 0;  // nanoseconds since 1970
};

// Builds a Handoff in `buffer`, socket by socket.
class HandoffEncoder {
 public:
  // `buffer` holds at least kHeaderBytes, and outlives the encoder.
  explicit HandoffEncoder(std::span<std::byte> buffer);
  // False when this socket's header does not fit any more: the message stays as it was.
  [[nodiscard]] bool add(const Facts& facts);
  std::size_t count() const { return count_; }
  // Writes the count and gives the bytes of the message.
  std::span<const std::byte> finish();

 private:
  std::span<std::byte> buffer_;
  std::size_t used_;
  std::uint16_t count_ = 0;
};

// Walks a Handoff's PROXY v2 headers.
class HandoffDecoder {
 public:
  explicit HandoffDecoder(std::span<const std::byte> message);
  // The facts of the next socket; `service` points into the message. An error when the bytes are
  // not a PROXY v2 header, or end too early.
  Result<Facts> next();

 private:
  std::span<const std::byte> rest_;
};

}  // namespace tcpmux::handoff
