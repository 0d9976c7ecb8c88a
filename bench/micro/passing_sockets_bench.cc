// What the kernel takes for a message with sockets on a lane, by how many travel in it. Times are
// those of a message; items are sockets.
//
// The sockets are TCP sockets that nobody has connected, each its own open file. Ours stay open, so
// a close is that of a copy: it sends no FIN, which would cost more than all the rest.
#include <benchmark/benchmark.h>
#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/base/address.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/fd.h"
#include "handoff/ancillary.h"
#include "handoff/message.h"

namespace bench {
namespace {

using tcpmux::OwnFd;
using tcpmux::handoff::Received;

// Messages that wait in the queue at once: 512 sockets in flight at most, which the kernel grants
// to any user with a limit of 1,024 descriptors.
constexpr std::int64_t kQueued = 8;

// A lane as the registry makes it, and a message as the router makes it.
class Lane {
 public:
  explicit Lane(std::size_t sockets) {
    int ends[2];
    TCPMUX_CHECK(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0,
                 "a lane needs two descriptors");
    ours_ = OwnFd(ends[0]);
    theirs_ = OwnFd(ends[1]);
    const auto client = tcpmux::parse_endpoint("192.0.2.7:40282");
    TCPMUX_CHECK(client.has_value(), "the address is good");
    tcpmux::handoff::HandoffEncoder encoder(payload_);
    for (std::size_t i = 0; i < sockets; ++i) {
      owned_.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      TCPMUX_CHECK(owned_.back().valid(), "the descriptor limit is at least 256");
      descriptors_.push_back(owned_.back().get());
      TCPMUX_CHECK(encoder.add({.source = *client, .destination = *client, .service = "echo"}),
                   "there is room for 64");
    }
    message_ = encoder.finish();
  }

  void send() {
    TCPMUX_CHECK(tcpmux::handoff::send_now(ours_.get(), message_, descriptors_) == 0,
                 "the lane has room");
  }
  void receive() {
    const Received received =
        tcpmux::handoff::receive(theirs_.get(), received_payload_, received_, MSG_DONTWAIT);
    TCPMUX_CHECK(received.kind == Received::Kind::kMessage && !received.descriptors_lost &&
                     received.descriptors == descriptors_.size(),
                 "all sockets arrive");
  }
  void close() {
    for (std::size_t i = 0; i < descriptors_.size(); ++i)
      received_[i].reset();
  }

 private:
  OwnFd ours_;
  OwnFd theirs_;
  std::vector<OwnFd> owned_;
  std::vector<int> descriptors_;
  std::array<std::byte, tcpmux::handoff::kMessageBytesMax> payload_;
  std::array<std::byte, tcpmux::handoff::kMessageBytesMax> received_payload_;
  std::array<OwnFd, tcpmux::handoff::kSocketsPerMessageMax> received_;
  std::span<const std::byte> message_;
};

void send_receive_close(benchmark::State& state) {
  Lane lane(static_cast<std::size_t>(state.range(0)));
  for (auto _ : state) {
    lane.send();
    lane.receive();
    lane.close();
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(send_receive_close)->Name("pass/send_receive_close")->Arg(1)->Arg(8)->Arg(64);

// Some messages are sent, and only that is timed; then the lane is emptied.
void send_alone(benchmark::State& state) {
  Lane lane(static_cast<std::size_t>(state.range(0)));
  while (state.KeepRunningBatch(kQueued)) {
    const std::int64_t began_ns = tcpmux::monotonic_ns();
    for (std::int64_t i = 0; i < kQueued; ++i)
      lane.send();
    const std::int64_t took_ns = tcpmux::monotonic_ns() - began_ns;
    state.SetIterationTime(static_cast<double>(took_ns) / tcpmux::kNanosPerSecond);
    for (std::int64_t i = 0; i < kQueued; ++i) {
      lane.receive();
      lane.close();
    }
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(send_alone)->Name("pass/send")->Arg(1)->Arg(8)->Arg(64)->UseManualTime();

}  // namespace
}  // namespace bench
