// Any bytes as any message of the handoff protocol: no decoder may read beyond them, and what a
// decoder takes must come back from the encoder as the same.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/base/check.h"
#include "handoff/message.h"

namespace {

using namespace tcpmux;
using namespace tcpmux::handoff;

// Of the size that it has, so that a sanitizer sees a read beyond the end.
using Bytes = std::vector<std::byte>;

void fuzz_register(const Bytes& message) {
  const Result<Register> first = decode_register(message);
  if (!first) return;
  TCPMUX_CHECK(!first->names.empty() && first->names.size() <= kNamesMax, "1 to 64 names");
  const Result<Register> second = decode_register(encode(*first));
  TCPMUX_CHECK(second.has_value(), "what was taken can be sent");
  TCPMUX_CHECK(second->names == first->names && second->window == first->window &&
                   second->batch == first->batch && second->lanes == first->lanes &&
                   second->lane_kind == first->lane_kind,
               "and is the same");
}

void fuzz_others(const Bytes& message) {
  if (const Result<Welcome> first = decode_welcome(message)) {
    const Result<Welcome> second = decode_welcome(encode(*first));
    TCPMUX_CHECK(second && second->lanes == first->lanes && second->window == first->window &&
                     second->batch == first->batch,
                 "a Welcome comes back");
  }
  if (const Result<Refuse> first = decode_refuse(message)) {
    const Result<Refuse> second = decode_refuse(encode(*first));
    TCPMUX_CHECK(second && second->code == first->code && second->reason == first->reason,
                 "a Refuse comes back");
  }
  const std::size_t header = std::min(message.size(), kHeaderBytes);
  TCPMUX_CHECK(plain_reason(message).size() == message.size() - header, "a reason is the rest");
}

void fuzz_handoff(const Bytes& message) {
  HandoffDecoder decoder(message);
  for (std::size_t i = 0; i <= message.size(); ++i) {
    const Result<Facts> first = decoder.next();
    if (!first) return;
    Bytes buffer(kMessageBytesMax);
    HandoffEncoder encoder(buffer);
    if (!encoder.add(*first)) continue;  // a service with a name of several thousand bytes
    const std::span<const std::byte> again = encoder.finish();
    const Result<Facts> second = HandoffDecoder(again).next();
    TCPMUX_CHECK(second && second->source == first->source &&
                     second->destination == first->destination &&
                     second->service == first->service && second->id == first->id &&
                     second->accepted_ns == first->accepted_ns,
                 "the facts come back");
  }
  TCPMUX_UNREACHABLE("a decoder must come to an end");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes message(size);
  std::transform(data, data + size, message.begin(), [](std::uint8_t b) { return std::byte{b}; });
  fuzz_register(message);
  fuzz_others(message);
  fuzz_handoff(message);
  return 0;
}
