#include "handoff/message.h"

#include <algorithm>
#include <cstring>

#include "core/base/check.h"

namespace tcpmux::handoff {
namespace {

constexpr std::array<std::uint8_t, 4> kMagic = {'T', 'M', 'U', 'X'};
constexpr std::size_t kRegisterBytes = 20;  // up to the names
constexpr std::size_t kWelcomeBytes = 16;

// PROXY protocol, version 2: https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt
constexpr std::array<std::uint8_t, 12> kProxySignature = {0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D,
                                                          0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A};
constexpr std::size_t kProxyHeaderBytes = 16;
constexpr std::uint8_t kProxyVersion2 = 0x20;
constexpr std::uint8_t kProxyCommandProxy = 0x01;
constexpr std::uint8_t kTcp4 = 0x11;
constexpr std::uint8_t kTcp6 = 0x21;
constexpr std::uint8_t kTlvAuthority = 0x02;
constexpr std::uint8_t kTlvUniqueId = 0x05;
constexpr std::uint16_t kRegisterWithoutAddresses = 1;  // in Register's flags
constexpr std::uint8_t kTlvAcceptedAt = 0xE0;
constexpr std::size_t kTlvHeaderBytes = 3;

// Appends to a buffer whose size the caller has checked.
class Writer {
 public:
  explicit Writer(std::byte* at) : at_(at) {}
  template <class Integer>
  void integer(Integer value) {
    for (int shift = static_cast<int>(sizeof(Integer)) * 8 - 8; shift >= 0; shift -= 8)
      *at_++ = static_cast<std::byte>((value >> shift) & 0xFF);
  }
  void bytes(const void* from, std::size_t count) {
    if (count > 0) std::memcpy(at_, from, count);
    at_ += count;
  }
  void header(MessageType type, std::uint16_t count) {
    bytes(kMagic.data(), kMagic.size());
    integer(kProtocolVersion);
    integer(static_cast<std::uint8_t>(type));
    integer(count);
  }

 private:
  std::byte* at_;
};

template <class Integer>
Integer read_integer(std::span<const std::byte> from, std::size_t offset) {
  Integer value = 0;
  for (std::size_t i = 0; i < sizeof(Integer); ++i)
    value = static_cast<Integer>((value << 8) | std::to_integer<Integer>(from[offset + i]));
  return value;
}

std::string_view text_from(std::span<const std::byte> message, std::size_t offset) {
  if (message.size() <= offset) return {};
  return {reinterpret_cast<const char*>(message.data()) + offset, message.size() - offset};
}

std::size_t address_bytes(IpAddress::Family family) {
  if (family == IpAddress::Family::kNone) return 0;
  return family == IpAddress::Family::kV4 ? 12 : 36;
}

// A connection of mixed families cannot be said in PROXY v2; it does not happen on one socket.
IpAddress::Family common_family(const Facts& facts) {
  return facts.source.address.family == facts.destination.address.family
             ? facts.source.address.family
             : IpAddress::Family::kNone;
}

void write_addresses(Writer& writer, IpAddress::Family family, const Facts& facts) {
  if (family == IpAddress::Family::kNone) return;
  const std::size_t size = family == IpAddress::Family::kV4 ? 4 : 16;
  writer.bytes(facts.source.address.bytes.data(), size);
  writer.bytes(facts.destination.address.bytes.data(), size);
  writer.integer(facts.source.port);
  writer.integer(facts.destination.port);
}

void read_addresses(std::span<const std::byte> from, IpAddress::Family family, Facts& facts) {
  const std::size_t size = family == IpAddress::Family::kV4 ? 4 : 16;
  facts.source.address.family = facts.destination.address.family = family;
  std::memcpy(facts.source.address.bytes.data(), from.data(), size);
  std::memcpy(facts.destination.address.bytes.data(), from.data() + size, size);
  facts.source.port = read_integer<std::uint16_t>(from, 2 * size);
  facts.destination.port = read_integer<std::uint16_t>(from, 2 * size + 2);
}

void read_tlv(std::uint8_t type, std::span<const std::byte> value, Facts& facts) {
  if (type == kTlvAuthority) facts.service = text_from(value, 0);
  if (type == kTlvUniqueId && value.size() == facts.id.size())
    std::memcpy(facts.id.data(), value.data(), value.size());
  if (type == kTlvAcceptedAt && value.size() == 8)
    facts.accepted_ns = static_cast<std::int64_t>(read_integer<std::uint64_t>(value, 0));
}

}  // namespace

std::optional<Header> decode_header(std::span<const std::byte> message) {
  if (message.size() < kHeaderBytes) return std::nullopt;
  if (std::memcmp(message.data(), kMagic.data(), kMagic.size()) != 0) return std::nullopt;
  return Header{.version = read_integer<std::uint8_t>(message, 4),
                .type = read_integer<std::uint8_t>(message, 5),
                .count = read_integer<std::uint16_t>(message, 6)};
}

std::vector<std::byte> encode(const Register& message) {
  std::size_t size = kRegisterBytes;
  for (const std::string& name : message.names)
    size += 1 + name.size();
  std::vector<std::byte> out(size);
  Writer writer(out.data());
  writer.header(MessageType::kRegister, static_cast<std::uint16_t>(message.names.size()));
  writer.integer(message.window);
  writer.integer(message.batch);
  writer.integer(message.lanes);
  writer.integer(static_cast<std::uint16_t>(message.lane_kind));
  writer.integer(message.without_addresses ? kRegisterWithoutAddresses : std::uint16_t{0});
  for (const std::string& name : message.names) {
    TCPMUX_CHECK(name.size() <= 255, "a name's length is one byte: check it before encoding");
    writer.integer(static_cast<std::uint8_t>(name.size()));
    writer.bytes(name.data(), name.size());
  }
  return out;
}

Result<Register> decode_register(std::span<const std::byte> message) {
  const std::optional<Header> header = decode_header(message);
  if (!header) return fail("a message begins with the magic \"TMUX\" and has at least 8 bytes");
  if (message.size() < kRegisterBytes)
    return fail("a Register needs at least 20 bytes, this one has " +
                std::to_string(message.size()));
  Register decoded;
  decoded.window = read_integer<std::uint32_t>(message, 8);
  decoded.batch = read_integer<std::uint16_t>(message, 12);
  decoded.lanes = read_integer<std::uint16_t>(message, 14);
  const auto kind = read_integer<std::uint16_t>(message, 16);
  if (header->count < 1 || header->count > kNamesMax)
    return fail("a Register has 1 to 64 names, not " + std::to_string(header->count));
  if (decoded.batch < 1 || decoded.batch > kSocketsPerMessageMax)
    return fail("batch is 1 to 64, not " + std::to_string(decoded.batch));
  if (decoded.lanes > kLanesMax)
    return fail("lanes is 0 to 64, not " + std::to_string(decoded.lanes));
  if (kind > 2) return fail("lane kind is 0, 1 or 2, not " + std::to_string(kind));
  decoded.lane_kind = static_cast<LaneKind>(kind);
  decoded.without_addresses =
      (read_integer<std::uint16_t>(message, 18) & kRegisterWithoutAddresses) != 0;
  std::span<const std::byte> rest = message.subspan(kRegisterBytes);
  for (std::uint16_t i = 0; i < header->count; ++i) {
    const std::size_t length = rest.empty() ? 0 : std::to_integer<std::size_t>(rest[0]);
    if (rest.empty() || rest.size() < 1 + length)
      return fail("the message ends inside name " + std::to_string(i + 1) + " of " +
                  std::to_string(header->count));
    if (length == 0)
      return fail("name " + std::to_string(i + 1) + " of " + std::to_string(header->count) +
                  " is empty");
    decoded.names.emplace_back(text_from(rest.first(1 + length), 1));
    rest = rest.subspan(1 + length);
  }
  if (decoded.lane_kind != LaneKind::kMessages && (decoded.names.size() != 1 || decoded.batch != 1))
    return fail("a raw registration has one name and batch 1");
  return decoded;
}

std::vector<std::byte> encode(const Welcome& message) {
  std::vector<std::byte> out(kWelcomeBytes);
  Writer writer(out.data());
  writer.header(MessageType::kWelcome, message.lanes);
  writer.integer(message.window);
  writer.integer(message.batch);
  writer.integer(std::uint16_t{0});
  return out;
}

Result<Welcome> decode_welcome(std::span<const std::byte> message) {
  const std::optional<Header> header = decode_header(message);
  if (!header || message.size() < kWelcomeBytes) return fail("a Welcome needs 16 bytes");
  return Welcome{.lanes = header->count,
                 .window = read_integer<std::uint32_t>(message, 8),
                 .batch = read_integer<std::uint16_t>(message, 12)};
}

std::vector<std::byte> encode(const Refuse& message) {
  std::vector<std::byte> out(kHeaderBytes + message.reason.size());
  Writer writer(out.data());
  writer.header(MessageType::kRefuse, message.code);
  writer.bytes(message.reason.data(), message.reason.size());
  return out;
}

Result<Refuse> decode_refuse(std::span<const std::byte> message) {
  const std::optional<Header> header = decode_header(message);
  if (!header) return fail("a Refuse needs 8 bytes");
  return Refuse{.code = header->count, .reason = std::string(plain_reason(message))};
}

std::vector<std::byte> encode_plain(MessageType type, std::string_view reason) {
  std::vector<std::byte> out(kHeaderBytes + reason.size());
  Writer writer(out.data());
  writer.header(type, 0);
  writer.bytes(reason.data(), reason.size());
  return out;
}

std::size_t encode_probe(std::span<std::byte> buffer) {
  TCPMUX_CHECK(buffer.size() >= kHeaderBytes, "a probe is a header");
  Writer(buffer.data()).header(MessageType::kProbe, 0);
  return kHeaderBytes;
}

std::string_view plain_reason(std::span<const std::byte> message) {
  return text_from(message, kHeaderBytes);
}

HandoffEncoder::HandoffEncoder(std::span<std::byte> buffer) : buffer_(buffer), used_(kHeaderBytes) {
  TCPMUX_CHECK(buffer.size() >= kHeaderBytes, "a handoff's buffer holds its header");
}

bool HandoffEncoder::add(const Facts& facts) {
  const IpAddress::Family family = common_family(facts);
  const std::size_t length = address_bytes(family) + kTlvHeaderBytes + facts.service.size() +
                             kTlvHeaderBytes + facts.id.size() + kTlvHeaderBytes +
                             sizeof facts.accepted_ns;
  if (kProxyHeaderBytes + length > buffer_.size() - used_) return false;
  Writer writer(buffer_.data() + used_);
  writer.bytes(kProxySignature.data(), kProxySignature.size());
  writer.integer(static_cast<std::uint8_t>(kProxyVersion2 | kProxyCommandProxy));
  writer.integer(family == IpAddress::Family::kV4   ? kTcp4
                 : family == IpAddress::Family::kV6 ? kTcp6
                                                    : std::uint8_t{0});
  writer.integer(static_cast<std::uint16_t>(length));
  write_addresses(writer, family, facts);
  writer.integer(kTlvAuthority);
  writer.integer(static_cast<std::uint16_t>(facts.service.size()));
  writer.bytes(facts.service.data(), facts.service.size());
  writer.integer(kTlvUniqueId);
  writer.integer(static_cast<std::uint16_t>(facts.id.size()));
  writer.bytes(facts.id.data(), facts.id.size());
  writer.integer(kTlvAcceptedAt);
  writer.integer(std::uint16_t{8});
  writer.integer(static_cast<std::uint64_t>(facts.accepted_ns));
  used_ += kProxyHeaderBytes + length;
  ++count_;
  return true;
}

std::span<const std::byte> HandoffEncoder::finish() {
  Writer(buffer_.data()).header(MessageType::kHandoff, count_);
  return buffer_.first(used_);
}

HandoffDecoder::HandoffDecoder(std::span<const std::byte> message)
    : rest_(message.subspan(std::min(message.size(), kHeaderBytes))) {}

Result<Facts> HandoffDecoder::next() {
  if (rest_.size() < kProxyHeaderBytes ||
      std::memcmp(rest_.data(), kProxySignature.data(), kProxySignature.size()) != 0 ||
      (std::to_integer<std::uint8_t>(rest_[12]) & 0xF0) != kProxyVersion2)
    return fail("no PROXY v2 header");
  const auto family_byte = std::to_integer<std::uint8_t>(rest_[13]);
  const auto length = read_integer<std::uint16_t>(rest_, 14);
  if (rest_.size() < kProxyHeaderBytes + length) return fail("a PROXY v2 header ends too early");
  std::span<const std::byte> body = rest_.subspan(kProxyHeaderBytes, length);
  rest_ = rest_.subspan(kProxyHeaderBytes + length);

  Facts facts;
  const IpAddress::Family family = family_byte == kTcp4   ? IpAddress::Family::kV4
                                   : family_byte == kTcp6 ? IpAddress::Family::kV6
                                                          : IpAddress::Family::kNone;
  if (body.size() < address_bytes(family)) return fail("a PROXY v2 header without its addresses");
  if (family != IpAddress::Family::kNone) read_addresses(body, family, facts);
  body = body.subspan(address_bytes(family));
  while (body.size() >= kTlvHeaderBytes) {
    const auto value_bytes = read_integer<std::uint16_t>(body, 1);
    if (body.size() < kTlvHeaderBytes + value_bytes) return fail("a TLV ends too early");
    read_tlv(std::to_integer<std::uint8_t>(body[0]), body.subspan(kTlvHeaderBytes, value_bytes),
             facts);
    body = body.subspan(kTlvHeaderBytes + value_bytes);
  }
  return facts;
}

}  // namespace tcpmux::handoff
