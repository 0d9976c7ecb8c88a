// What a backend is told: encoding and decoding the PROXY v2 headers of a handoff, and encoding
// from a template that only the addresses, the id and the time are written into.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "core/base/check.h"
#include "handoff/message.h"

namespace bench {
namespace {

using tcpmux::handoff::Facts;
using tcpmux::handoff::HandoffDecoder;
using tcpmux::handoff::HandoffEncoder;

using Buffer = std::array<std::byte, tcpmux::handoff::kMessageBytesMax>;

Facts facts_of(bool v6) {
  const auto endpoint = [&](const char* v4_text, const char* v6_text) {
    const auto parsed = tcpmux::parse_endpoint(v6 ? v6_text : v4_text);
    TCPMUX_CHECK(parsed.has_value(), "the addresses are good");
    return *parsed;
  };
  return {.source = endpoint("192.0.2.7:40282", "[2001:db8::7]:40282"),
          .destination = endpoint("198.51.100.1:1", "[2001:db8::1]:1"),
          .service = "echo",
          .id = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
          .accepted_ns = 1'700'000'000'123'456'789};
}

// The header of IPv4 connections of one service: what is the same in all of them is copied whole.
class Template {
 public:
  explicit Template(const Facts& facts) {
    HandoffEncoder encoder(message_);
    TCPMUX_CHECK(encoder.add(facts), "there is room for one");
    const std::span<const std::byte> header =
        encoder.finish().subspan(tcpmux::handoff::kHeaderBytes);
    bytes_ = header.size();
    std::copy(header.begin(), header.end(), message_.begin());
    id_at_ = kServiceAt + facts.service.size() + 3;
  }
  std::size_t bytes() const { return bytes_; }

  void write(const Facts& facts, std::byte* to) const {
    std::memcpy(to, message_.data(), bytes_);
    std::memcpy(to + 16, facts.source.address.bytes.data(), 4);
    std::memcpy(to + 20, facts.destination.address.bytes.data(), 4);
    store(to + 24, facts.source.port);
    store(to + 26, facts.destination.port);
    std::memcpy(to + id_at_, facts.id.data(), facts.id.size());
    store(to + id_at_ + facts.id.size() + 3, static_cast<std::uint64_t>(facts.accepted_ns));
  }

 private:
  static constexpr std::size_t kServiceAt = 31;  // behind the addresses and the TLV's header

  template <class Integer>
  static void store(std::byte* to, Integer value) {
    if constexpr (std::endian::native == std::endian::little) value = std::byteswap(value);
    std::memcpy(to, &value, sizeof value);
  }

  Buffer message_;
  std::size_t bytes_ = 0;
  std::size_t id_at_ = 0;
};

void encode(benchmark::State& state, bool v6) {
  const Facts facts = facts_of(v6);
  Buffer buffer;
  for (auto _ : state) {
    HandoffEncoder encoder(buffer);
    for (std::int64_t i = 0; i < state.range(0); ++i)
      TCPMUX_CHECK(encoder.add(facts), "there is room for 64");
    benchmark::DoNotOptimize(encoder.finish().data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK_CAPTURE(encode, v4, false)->Name("handoff/encode_v4")->Arg(1)->Arg(8)->Arg(64);
BENCHMARK_CAPTURE(encode, v6, true)->Name("handoff/encode_v6")->Arg(1)->Arg(8)->Arg(64);

void check_template(const Template& made) {
  Facts other = facts_of(false);
  other.source = *tcpmux::parse_endpoint("10.11.12.13:14");
  other.destination = *tcpmux::parse_endpoint("21.22.23.24:25");
  other.id.fill(0xEE);
  other.accepted_ns = 0x0102030405060708;
  Buffer expected;
  HandoffEncoder encoder(expected);
  TCPMUX_CHECK(encoder.add(other), "there is room for one");
  Buffer written;
  made.write(other, written.data());
  const std::span<const std::byte> bytes = encoder.finish().subspan(tcpmux::handoff::kHeaderBytes);
  TCPMUX_CHECK(
      bytes.size() == made.bytes() && std::equal(bytes.begin(), bytes.end(), written.begin()),
      "the template writes what the encoder writes");
}

void encode_from_template(benchmark::State& state) {
  const Facts facts = facts_of(false);
  const Template made(facts);
  check_template(made);
  Buffer buffer;
  for (auto _ : state) {
    std::byte* to = buffer.data() + tcpmux::handoff::kHeaderBytes;
    for (std::int64_t i = 0; i < state.range(0); ++i, to += made.bytes())
      made.write(facts, to);
    benchmark::DoNotOptimize(buffer.data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(encode_from_template)->Name("handoff/template_v4")->Arg(1)->Arg(8)->Arg(64);

void decode(benchmark::State& state, bool v6) {
  const Facts facts = facts_of(v6);
  Buffer buffer;
  HandoffEncoder encoder(buffer);
  for (std::int64_t i = 0; i < state.range(0); ++i)
    TCPMUX_CHECK(encoder.add(facts), "there is room for 64");
  const std::span<const std::byte> message = encoder.finish();
  for (auto _ : state) {
    HandoffDecoder decoder(message);
    for (std::int64_t i = 0; i < state.range(0); ++i) {
      const auto decoded = decoder.next();
      TCPMUX_CHECK(decoded.has_value() && decoded->id == facts.id, "what was encoded comes back");
      benchmark::DoNotOptimize(decoded->accepted_ns);
    }
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK_CAPTURE(decode, v4, false)->Name("handoff/decode_v4")->Arg(1)->Arg(8)->Arg(64);
BENCHMARK_CAPTURE(decode, v6, true)->Name("handoff/decode_v6")->Arg(1)->Arg(8)->Arg(64);

}  // namespace
}  // namespace bench
