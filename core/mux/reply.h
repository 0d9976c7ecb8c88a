// The reasons behind '-', as a client reads them. Each is one line (RFC 1078: the character, a
// message at once behind it, CRLF).
#pragma once

#include <cstdint>
#include <string_view>

namespace tcpmux {

enum class Refusal : std::uint8_t {
  kUnknown,  // no such service, or a hidden one that this source may not use
  kInvalid,  // not a service name
  kTooLong,
  kDenied,       // known, but not for this source
  kUnavailable,  // configured, but no backend serves it now
  kBusy,         // backends serve it, but none has a place; or no slot or descriptor is left
  kShuttingDown,
};
inline constexpr int kRefusalCount = 7;

// "-unknown service\r\n"
constexpr std::string_view refusal_reply(Refusal refusal) {
  switch (refusal) {
    case Refusal::kUnknown:
      return "-unknown service\r\n";
    case Refusal::kInvalid:
      return "-invalid service name\r\n";
    case Refusal::kTooLong:
      return "-too long for a service name\r\n";
    case Refusal::kDenied:
      return "-denied to your address\r\n";
    case Refusal::kUnavailable:
      return "-unavailable, no backend at the moment\r\n";
    case Refusal::kBusy:
      return "-busy, try again\r\n";
    case Refusal::kShuttingDown:
      return "-shutting down\r\n";
  }
  return "-\r\n";
}

// One word for each, for counters.
constexpr std::string_view refusal_word(Refusal refusal) {
  switch (refusal) {
    case Refusal::kUnknown:
      return "unknown";
    case Refusal::kInvalid:
      return "invalid";
    case Refusal::kTooLong:
      return "too_long";
    case Refusal::kDenied:
      return "denied";
    case Refusal::kUnavailable:
      return "unavailable";
    case Refusal::kBusy:
      return "busy";
    case Refusal::kShuttingDown:
      return "shutting_down";
  }
  return "other";
}

// The same for a log: "unknown service".
constexpr std::string_view refusal_reason(Refusal refusal) {
  const std::string_view reply = refusal_reply(refusal);
  return reply.substr(1, reply.size() - 3);
}

}  // namespace tcpmux
