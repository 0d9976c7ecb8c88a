// The bytes on the wire: PROTOCOL.md's worked example to the byte, round trips, and that nothing
// that is cut short or out of range is taken for a message.
#include "handoff/message.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

namespace tcpmux::handoff {
namespace {

using Bytes = std::vector<std::byte>;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// ---- the worked example, as the document has it

// What stands before the words that explain it, which three spaces or more set apart.
void add_hex(const std::string& line, Bytes& to) {
  const std::size_t begin = line.find_first_not_of(' ');
  std::istringstream pairs(line.substr(begin, line.find("   ", begin) - begin));
  for (std::string pair; pairs >> pair;)
    to.push_back(static_cast<std::byte>(std::stoi(pair, nullptr, 16)));
}

std::vector<Bytes> worked_example() {
  std::ifstream file(TCPMUX_PROTOCOL_FILE);
  std::vector<Bytes> messages;
  bool in_section = false;
  bool in_block = false;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("## ")) in_section = line == "## Worked example";
    if (!in_section) continue;
    if (line.starts_with("```")) {
      in_block = !in_block;
      if (in_block) messages.emplace_back();
    } else if (in_block) {
      add_hex(line, messages.back());
    }
  }
  return messages;
}

Facts example_facts() {
  Facts facts{.source = *parse_endpoint("192.0.2.7:50000"),
              .destination = *parse_endpoint("198.51.100.1:1"),
              .service = "echo",
              .accepted_ns = 1'649'264'007'492'403'200};
  facts.id = {0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0, 0, 0, 0, 0, 0, 0, 42};
  return facts;
}

Bytes handoff(const std::vector<Facts>& sockets) {
  Bytes buffer(kMessageBytesMax);
  HandoffEncoder encoder(buffer);
  for (const Facts& facts : sockets)
    EXPECT_TRUE(encoder.add(facts));
  const std::span<const std::byte> message = encoder.finish();
  return {message.begin(), message.end()};
}

void expect_same(const Facts& got, const Facts& expected) {
  EXPECT_EQ(got.source, expected.source);
  EXPECT_EQ(got.destination, expected.destination);
  EXPECT_EQ(got.service, expected.service);
  EXPECT_EQ(got.id, expected.id);
  EXPECT_EQ(got.accepted_ns, expected.accepted_ns);
}

TEST(Protocol, TheWorkedExampleIsWhatWeSend) {
  const std::vector<Bytes> example = worked_example();
  ASSERT_EQ(example.size(), 3U);
  EXPECT_EQ(example[0], encode(Register{.window = 16, .batch = 1, .lanes = 1, .names = {"echo"}}));
  EXPECT_EQ(example[1], encode(Welcome{.lanes = 1, .window = 16, .batch = 1}));
  EXPECT_EQ(example[2], handoff({example_facts()}));
}

TEST(Protocol, TheWorkedExampleIsWhatWeUnderstand) {
  const std::vector<Bytes> example = worked_example();
  ASSERT_EQ(example.size(), 3U);
  const Result<Register> asked = decode_register(example[0]);
  ASSERT_TRUE(asked.has_value());
  EXPECT_THAT(asked->names, ElementsAre("echo"));
  EXPECT_EQ(asked->window, 16U);
  const Result<Welcome> welcome = decode_welcome(example[1]);
  ASSERT_TRUE(welcome.has_value());
  EXPECT_EQ(welcome->lanes, 1);
  const Result<Facts> facts = HandoffDecoder(example[2]).next();
  ASSERT_TRUE(facts.has_value());
  expect_same(*facts, example_facts());
}

// ---- round trips

TEST(Message, ARegisterComesBack) {
  const Register sent{.window = 0xDEADBEEF,
                      .batch = 64,
                      .lanes = 64,
                      .lane_kind = LaneKind::kMessages,
                      .without_addresses = true,
                      .names = {"a", std::string(255, 'x'), "whoami"}};
  const Result<Register> got = decode_register(encode(sent));
  ASSERT_TRUE(got.has_value());
  EXPECT_EQ(got->window, sent.window);
  EXPECT_EQ(got->batch, sent.batch);
  EXPECT_EQ(got->lanes, sent.lanes);
  EXPECT_TRUE(got->without_addresses);
  EXPECT_FALSE(decode_register(encode(Register{.names = {"a"}}))->without_addresses);
  EXPECT_EQ(got->names, sent.names);
  for (const LaneKind kind : {LaneKind::kRawSeqpacket, LaneKind::kRawStream})
    EXPECT_EQ(decode_register(encode(Register{.lane_kind = kind, .names = {"a"}}))->lane_kind,
              kind);
}

TEST(Message, TheOthersComeBack) {
  const Result<Welcome> welcome = decode_welcome(encode(Welcome{64, 1'000'000, 64}));
  EXPECT_EQ(welcome->lanes, 64);
  EXPECT_EQ(welcome->window, 1'000'000U);
  EXPECT_EQ(welcome->batch, 64);
  const Result<Refuse> refuse = decode_refuse(encode(Refuse{.code = 3, .reason = "not you"}));
  EXPECT_EQ(refuse->code, 3);
  EXPECT_EQ(refuse->reason, "not you");
  EXPECT_EQ(plain_reason(encode_plain(MessageType::kDrain)), "");
  EXPECT_EQ(plain_reason(encode_plain(MessageType::kGoodbye, "an upgrade")), "an upgrade");
  const std::optional<Header> header = decode_header(encode_plain(MessageType::kProbe));
  EXPECT_EQ(header->type, static_cast<int>(MessageType::kProbe));
  EXPECT_EQ(header->version, kProtocolVersion);
  EXPECT_EQ(header->count, 0);
}

TEST(Message, ManySocketsComeBackInTheirOrder) {
  Facts v4 = example_facts();
  Facts v6 = example_facts();
  v6.source = *parse_endpoint("[2001:db8::7]:65535");
  v6.destination = *parse_endpoint("[2001:db8::1]:1");
  v6.id[15] = 43;
  v6.service = "another-service";
  Facts unknown;
  unknown.service = "x";
  unknown.accepted_ns = 1;
  const std::vector<Facts> sent = {v4, v6, unknown, v4};
  const Bytes message = handoff(sent);
  EXPECT_EQ(decode_header(message)->count, 4);
  HandoffDecoder decoder(message);
  for (const Facts& expected : sent) {
    const Result<Facts> got = decoder.next();
    ASSERT_TRUE(got.has_value());
    expect_same(*got, expected);
  }
  EXPECT_FALSE(decoder.next().has_value());
}

TEST(Message, AddressesOfMixedFamiliesAreNotSaid) {
  Facts mixed = example_facts();
  mixed.destination = *parse_endpoint("[2001:db8::1]:1");
  const Bytes message = handoff({mixed});
  const Result<Facts> got = HandoffDecoder(message).next();
  ASSERT_TRUE(got.has_value());
  EXPECT_EQ(got->source.address.family, IpAddress::Family::kNone);
  EXPECT_EQ(got->service, "echo");
}

TEST(Message, WhatDoesNotFitAnyMoreLeavesTheHandoffAsItWas) {
  const std::size_t one = handoff({example_facts()}).size() - kHeaderBytes;
  Bytes buffer(kHeaderBytes + 2 * one + one - 1);
  HandoffEncoder encoder(buffer);
  EXPECT_TRUE(encoder.add(example_facts()));
  EXPECT_TRUE(encoder.add(example_facts()));
  EXPECT_FALSE(encoder.add(example_facts()));
  EXPECT_EQ(encoder.count(), 2U);
  EXPECT_EQ(encoder.finish().size(), kHeaderBytes + 2 * one);
  EXPECT_EQ(decode_header(buffer)->count, 2);
}

// ---- cut short

template <class Decode>
void expect_error_when_cut(const Bytes& message, std::size_t needed, Decode&& decode) {
  for (std::size_t size = 0; size < needed; ++size) {
    // Of its own, so that a sanitizer sees a read beyond the end.
    const Bytes cut(message.begin(), message.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_FALSE(decode(cut)) << size << " of " << message.size() << " bytes";
  }
  EXPECT_TRUE(decode(message));
}

TEST(Message, NothingCutShortIsTaken) {
  const Bytes asked = encode(Register{.names = {"echo", "whoami"}});
  expect_error_when_cut(asked, asked.size(),
                        [](const Bytes& cut) { return decode_register(cut).has_value(); });
  const Bytes welcome = encode(Welcome{.lanes = 1});
  expect_error_when_cut(welcome, welcome.size(),
                        [](const Bytes& cut) { return decode_welcome(cut).has_value(); });
  expect_error_when_cut(encode(Refuse{.code = 1, .reason = "why"}), kHeaderBytes,
                        [](const Bytes& cut) { return decode_refuse(cut).has_value(); });
  const Bytes one = handoff({example_facts()});
  expect_error_when_cut(one, one.size(),
                        [](const Bytes& cut) { return HandoffDecoder(cut).next().has_value(); });
}

TEST(Message, BytesBehindTheLastFieldAreIgnored) {
  for (Bytes message : {encode(Register{.names = {"echo"}}), encode(Welcome{.lanes = 1})}) {
    message.resize(message.size() + 7, std::byte{0xFF});
    EXPECT_TRUE(decode_register(message).has_value() || decode_welcome(message).has_value());
  }
}

// ---- out of range

Bytes changed(Bytes message, std::size_t offset, std::initializer_list<int> values) {
  for (const int value : values)
    message[offset++] = static_cast<std::byte>(value);
  return message;
}

TEST(Message, ARegisterOutOfRangeIsRefusedWithTheField) {
  const Bytes good = encode(Register{.names = {"echo"}});
  const struct {
    Bytes message;
    const char* says;
  } cases[] = {
      {changed(good, 6, {0, 0}), "names, not 0"},
      {changed(good, 6, {0, 65}), "names, not 65"},
      {changed(good, 6, {0, 2}), "inside name 2 of 2"},
      {changed(good, 12, {0, 0}), "batch is 1 to 64, not 0"},
      {changed(good, 12, {0, 65}), "batch is 1 to 64, not 65"},
      {changed(good, 12, {1, 0}), "batch is 1 to 64, not 256"},
      {changed(good, 14, {0, 65}), "lanes is 0 to 64, not 65"},
      {changed(good, 16, {0, 3}), "lane kind"},
      {changed(good, 20, {5}), "inside name 1 of 1"},
      {changed(good, 20, {0}), "name 1 of 1 is empty"},
      {encode(Register{.batch = 2, .lane_kind = LaneKind::kRawSeqpacket, .names = {"a"}}), "raw"},
      {encode(Register{.lane_kind = LaneKind::kRawStream, .names = {"a", "b"}}), "raw"},
      {Bytes(20), "magic"},
  };
  for (const auto& each : cases) {
    const Result<Register> got = decode_register(each.message);
    ASSERT_FALSE(got.has_value()) << each.says;
    EXPECT_THAT(got.error().message, HasSubstr(each.says));
  }
}

TEST(Message, AHandoffThatIsNoProxyHeaderIsRefused) {
  const Bytes good = handoff({example_facts()});
  const Bytes cases[] = {
      changed(good, 8, {0}),            // signature
      changed(good, 19, {0}),           // its last byte
      changed(good, 20, {0x11}),        // version 1
      changed(good, 22, {0, 0x32}),     // longer than what follows
      changed(good, 22, {0, 11}),       // too short for its addresses
      changed(good, 37, {0xFF, 0xFF}),  // a TLV longer than its header
  };
  for (const Bytes& message : cases)
    EXPECT_FALSE(HandoffDecoder(message).next().has_value());
}

TEST(Message, WhatAHandoffSaysBesidesIsIgnored) {
  const Bytes other_type = changed(handoff({example_facts()}), 36, {0xEE});  // not AUTHORITY
  Result<Facts> got = HandoffDecoder(other_type).next();
  ASSERT_TRUE(got.has_value());
  EXPECT_EQ(got->service, "");
  EXPECT_EQ(got->id, example_facts().id);
  const Bytes other_family = changed(handoff({Facts{}}), 21, {0x31});  // Unix
  got = HandoffDecoder(other_family).next();
  ASSERT_TRUE(got.has_value());
  EXPECT_EQ(got->source.address.family, IpAddress::Family::kNone);
}

}  // namespace
}  // namespace tcpmux::handoff
