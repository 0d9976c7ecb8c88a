// A whole handshake as user space sees it, without a kernel: the line is scanned, the name looked
// up, the source judged, and the state machine is led from the first peek to the end.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string_view>
#include <utility>

#include "core/base/check.h"
#include "core/mux/connection.h"
#include "core/mux/policy.h"
#include "core/mux/reply.h"
#include "core/mux/request.h"
#include "core/mux/service_table.h"

namespace bench {
namespace {

using tcpmux::Action;
using tcpmux::Event;
using tcpmux::LineStatus;
using tcpmux::State;

constexpr std::size_t kLineBytesMax = 512;

tcpmux::ServiceTable make_table() {
  const auto inside = tcpmux::parse_prefix("192.0.2.0/24");
  TCPMUX_CHECK(inside.has_value(), "the prefix is good");
  auto access = tcpmux::AccessRules::build({*inside}, {});
  TCPMUX_CHECK(access.has_value(), "there is nothing to clash with");
  auto table = tcpmux::ServiceTable::build(
      {{.name = "daytime"}, {.name = "echo", .access = *std::move(access)}, {.name = "whoami"}});
  TCPMUX_CHECK(table.has_value(), "the services are good");
  return *std::move(table);
}

// One client, and the least of a shard: what an action would start has happened at once.
class Handshake {
 public:
  // A peek sees `bytes_at_once` bytes of the line at most.
  Handshake(const tcpmux::ServiceTable& table, std::string_view line, std::size_t bytes_at_once)
      : table_(table), text_(line), bytes_at_once_(bytes_at_once) {
    const auto source = tcpmux::parse_ip_address("192.0.2.7");
    TCPMUX_CHECK(source.has_value(), "the address is good");
    source_ = *source;
  }

  // The reply that the client has got when all is over.
  std::string_view run() {
    line_.clear();
    taken_ = 0;
    reply_ = {};
    state_ = State::kPeeking;
    for (std::optional<Event> event = peek(); event.has_value();) {
      const tcpmux::Step step = tcpmux::step(state_, *event);
      state_ = step.next;
      event = carry_out(step.action);
    }
    TCPMUX_CHECK(state_ == State::kClosed, "a handshake ends");
    return reply_;
  }

 private:
  Event peek() {
    const auto room = line_.room(kLineBytesMax);
    const std::size_t peeked = std::min({room.size(), text_.size() - taken_, bytes_at_once_});
    std::copy_n(text_.begin() + static_cast<std::ptrdiff_t>(taken_), peeked, room.begin());
    std::size_t take = 0;
    const LineStatus status = line_.scan(peeked, kLineBytesMax, take);
    taken_ += take;
    switch (status) {
      case LineStatus::kIncomplete:
        return Event::kLineIncomplete;
      case LineStatus::kName:
        return judge();
      case LineStatus::kInvalid:
        refusal_ = tcpmux::Refusal::kInvalid;
        break;
      case LineStatus::kTooLong:
        refusal_ = tcpmux::Refusal::kTooLong;
        break;
    }
    return Event::kLineRefused;
  }

  Event judge() {
    if (tcpmux::is_help(line_.name())) return Event::kLineHelp;
    service_ = table_.find(line_.name());
    refusal_ = tcpmux::Refusal::kUnknown;
    if (service_ == tcpmux::kNoService) return Event::kLineRefused;
    refusal_ = tcpmux::Refusal::kDenied;
    return table_[service_].access.allows(source_) ? Event::kLineService : Event::kLineRefused;
  }

  // What the action leads to; nothing when the connection has come to its end.
  std::optional<Event> carry_out(Action action) {
    switch (action) {
      case Action::kTake:
        return Event::kTaken;
      case Action::kPeek:
        return peek();
      case Action::kReserve:
        return Event::kRoom;
      case Action::kAccept:
        reply_ = table_.accept_reply(service_);
        return Event::kReplied;
      case Action::kHandOff:
        return Event::kHandedOff;
      case Action::kRefuse:
        reply_ = tcpmux::refusal_reply(refusal_);
        return Event::kReplied;
      case Action::kList:
        reply_ = table_.help_reply();
        return Event::kReplied;
      case Action::kHangUp:
        return Event::kPeerGone;
      case Action::kClose:
        return std::nullopt;
      default:
        break;
    }
    TCPMUX_UNREACHABLE("no client here leads to another action");
  }

  const tcpmux::ServiceTable& table_;
  std::string_view text_;
  std::size_t bytes_at_once_;
  tcpmux::IpAddress source_;
  tcpmux::RequestLine line_;
  std::size_t taken_ = 0;
  State state_ = State::kClosed;
  tcpmux::ServiceId service_ = tcpmux::kNoService;
  tcpmux::Refusal refusal_ = tcpmux::Refusal::kUnknown;
  std::string_view reply_;
};

void shake_hands(benchmark::State& state, std::string_view line, std::size_t bytes_at_once,
                 std::string_view expected) {
  const tcpmux::ServiceTable table = make_table();
  Handshake handshake(table, line, bytes_at_once);
  TCPMUX_CHECK(handshake.run() == expected, "the client is told what it should be");
  for (auto _ : state)
    benchmark::DoNotOptimize(handshake.run().data());
}
BENCHMARK_CAPTURE(shake_hands, accepted, "echo\r\n", 512, "+\r\n")->Name("handshake/accepted");
BENCHMARK_CAPTURE(shake_hands, in_bytes, "ECHO\r\n", 1, "+\r\n")->Name("handshake/byte_by_byte");
BENCHMARK_CAPTURE(shake_hands, unknown, "coffee\r\n", 512, "-unknown service\r\n")
    ->Name("handshake/unknown");
BENCHMARK_CAPTURE(shake_hands, help, "HELP\r\n", 512, "daytime\r\necho\r\nwhoami\r\n")
    ->Name("handshake/help");

}  // namespace
}  // namespace bench
