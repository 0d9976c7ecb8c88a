// What a connection does, and in which proportion connections of several kinds are begun.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/base/result.h"

namespace load {

enum class Kind : std::uint8_t {
  kHandshake,  // the name, the reply, close
  kSession,    // the handshake, then messages that come back
  kEarly,      // bytes right behind the line, which come back
  kUnknown,    // a name that nobody serves: wants "-" and the end
  kHelp,       // HELP: wants names and the end
  kTrickle,    // a handshake, sent a byte at a time
  kHalf,       // half a line, then silence, until the server closes
  kSilent,     // nothing at all, until the server closes
};
inline constexpr std::size_t kKindCount = 8;
inline constexpr std::array<std::string_view, kKindCount> kKindNames = {
    "handshake", "session", "early", "unknown", "help", "trickle", "half", "silent"};

inline std::string_view to_string(Kind kind) {
  return kKindNames[static_cast<std::size_t>(kind)];
}

// Kinds by weight, evenly interleaved: after any number of connections each kind has had its share,
// to within one or two (smooth weighted round robin).
class KindMix {
 public:
  static constexpr std::uint32_t kWeightMax = 1'000'000;

  KindMix() = default;  // handshakes only
  explicit KindMix(Kind kind);

  // "session", "handshake=3,unknown=1".
  static tcpmux::Result<KindMix> parse(std::string_view text);

  Kind next();

  bool has(Kind kind) const { return weights_[static_cast<std::size_t>(kind)] > 0; }
  bool has_only(Kind kind) const;
  std::string text() const;

 private:
  std::array<std::uint32_t, kKindCount> weights_{1};
  std::array<std::int64_t, kKindCount> credit_{};
};

}  // namespace load
