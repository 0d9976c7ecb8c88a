#include "tests/sim/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <string>

namespace tcpmux::sim {
namespace {

// {0} is the subject, {1} the detail.
constexpr std::array<const char*, static_cast<std::size_t>(What::kCount)> kTexts = {
    "client {0} connects, to listener {1}",
    "client {0}: {1} bytes have arrived",
    "client {0}: FIN, behind {1} bytes",
    "client {0}: RST, behind {1} bytes",
    "client {0} has read {1} bytes",
    "client {0} is accepted as descriptor {1}",
    "accept fails: errno {1}, on listener {0}",
    "accept ends on listener {0}, with result {1}",
    "client {0}: {1} bytes are peeked",
    "client {0}: {1} bytes are discarded",
    "client {0}: {1} bytes of a reply are sent",
    "client {0}: {1} bytes are drained",
    "client {0}: the operation ends with {1}",
    "client {0}: the operation is cancelled",
    "client {0}: shutdown(SHUT_WR)",
    "client {0}: the mux closes descriptor {1}",
    "client {0} is dismissed",
    "client {0} is shed",
    "client {0} is passed on to shard {1}",
    "client {0} is adopted",
    "lane {0} takes a message with {1} sockets",
    "lane {0} takes no message: errno {1}",
    "lane {0}: {1} sockets are taken back",
    "client {0} is received by backend {1}",
    "client {0}: backend {1} closes it",
    "client {0} has ended; {1} backends had it",
    "a turn with {0} completions; it then wants to wake at {1}",
    "a turn that waits for nothing, number {0}",
    "a message comes",
    "a message finds the mailbox full",
    "backend {0} asks for {1} lanes",
    "backend {0} sends {1} bytes of rubbish to the registry",
    "backend {0} dies",
    "backend {0} stalls",
    "backend {0} wakes up",
    "backend {0} wants no more",
    "lane {0} comes back to the registry",
    "lane {0} is shut down by its backend",
    "backend {0} connects to the registry, as connection {1}",
    "backend {0} sends the registry {1} bytes that are no good",
    "backend {0} registers a second time, as backend {1}",
    "backend {0} is welcomed, with {1} lanes",
    "backend {0} is refused, with code {1}",
    "backend {0} finds its connection ended",
    "the registry's path is removed",
    "table {0} comes",
    "all backends leave before the shutdown",
    "shutdown, until {1}",
    "stop",
    "shard {0} is done",
    "the shard pauses for {1} ns",
    "time jumps by {1} ns",
    "the clock of the day jumps by {1} ns",
    "an upgrade begins",
    "the upgrade was for nothing",
    "process {0} serves in the other's place",
    "client {0} is passed on to the successor",
};

}  // namespace

void Trace::print(const Line& line) {
  const std::string text = fmt::format(fmt::runtime(kTexts[static_cast<std::size_t>(line.what)]),
                                       line.subject, line.detail);
  const std::string who = line.shard == kNobody ? "       " : fmt::format("shard {}", line.shard);
  fmt::print(stderr, "{:>14.6f} ms  {}  {}\n", static_cast<double>(line.at_ns) / 1e6, who, text);
}

void Trace::print_last(std::size_t most) const {
  const std::uint64_t lines = std::min<std::uint64_t>({most, count_, lines_.size()});
  for (std::uint64_t i = count_ - lines; i < count_; ++i)
    print(lines_[i % lines_.size()]);
}

}  // namespace tcpmux::sim
