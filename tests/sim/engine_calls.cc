// SimBackend, the part about immediate calls: closing, lanes, and dismissing.
#include <fmt/format.h>

#include <cerrno>
#include <cstring>

#include "tests/sim/engine.h"

namespace tcpmux::sim {
namespace {

constexpr std::int64_t kUserLimit_ns = 150 * kNanosPerMilli;

}  // namespace

void SimBackend::let_go(int fd) {
  const Outside outside;
  const Client& client = kernel_.client_of(fd);
  if (client.operation.kind != Kind::kNone)
    broken(0, fmt::format("client {}: let go with an operation in flight", client.serial));
}

void SimBackend::close(int fd) {
  const Outside outside;
  ++calls_;
  if (kernel_.file(fd).kind == File::Kind::kClient) {
    Client& client = kernel_.client_of(fd);
    ledger_.closes(client, false);
  }
  kernel_.close(fd);
}

void SimBackend::shutdown_write(int fd) {
  const Outside outside;
  Client& client = kernel_.client_of(fd);
  client.write_is_shut = true;
  context_.note(What::kShutsWrite, client.serial);
  clients_.was_told(kernel_.file(fd).index);
}

Endpoints SimBackend::endpoints(int fd) {
  const Outside outside;
  const Client& client = kernel_.client_of(fd);
  // ENOTCONN: the peer has reset the connection.
  if (client.reset) return {};
  return {.source = client.source, .destination = client.destination};
}

// '+' promises a place: in the shard's lanes for the service there must be one for this client, and
// for every other whose '+' is on its way.
void SimBackend::check_place(const Client& client) const {
  std::uint32_t places = 0;
  for (std::uint32_t i = 0; i < kernel_.lanes(); ++i) {
    const SimLane& lane = kernel_.lane(i);
    if (lane.serial == 0 || lane.shard != shard_ || (lane.services >> client.service & 1) == 0)
      continue;
    places += lane.window - std::min(lane.window, lane.sockets);
  }
  if (places > plus_in_flight_[client.service]) return;
  broken(4, fmt::format("client {} is told '+': {} places, and {} were promised before it",
                        client.serial, places, plus_in_flight_[client.service]));
}

// --- lanes ---

std::uint32_t SimBackend::queued_bytes(int fd) {
  const Outside outside;
  SimLane& lane = kernel_.lane_of(fd, File::Kind::kLaneCopy);
  const File file = kernel_.file(fd);
  if (context_.fault(Dial::kWakeRace)) kernel_.reader().may_receive_now(file.index);
  std::size_t bytes = 0;
  for (std::uint32_t i = 0; i < lane.messages; ++i)
    bytes += lane.queue[(lane.first + i) % lane.queue.size()].payload.size();
  return static_cast<std::uint32_t>(bytes);
}

// 0, or a negative errno.
std::int32_t SimBackend::refuse_to_send(SimLane& lane) {
  if (lane.is_shut) return -EPIPE;
  if (context_.now_ns < lane.full_until_ns) return -ETOOMANYREFS;
  if (context_.fault(Dial::kTooManyRefs)) {
    lane.full_until_ns = context_.now_ns + context_.random.skewed(kUserLimit_ns);
    return -ETOOMANYREFS;
  }
  if (context_.fault(Dial::kLaneFull)) return -EAGAIN;
  if (context_.fault(Dial::kLaneNoMemory))
    return context_.random.below(2) == 0 ? -ENOBUFS : -ENOMEM;
  return 0;
}

std::int64_t SimBackend::send_now(int fd, const msghdr* message) {
  const Outside outside;
  SimLane& lane = kernel_.lane_of(fd, File::Kind::kLaneOurs);
  const std::uint32_t place = kernel_.file(fd).index;
  if (const std::int32_t error = refuse_to_send(lane); error != 0) {
    context_.note(What::kSendFails, lane.serial, -error);
    if (error != -EPIPE) ++ledger_.current().lane_full;
    return error;
  }
  ++calls_;
  put_into(lane, *message);
  const bool races = context_.fault(Dial::kWakeRace);
  if (races) kernel_.reader().may_receive_now(place);
  kernel_.reader().lane_has_something(place);
  return static_cast<std::int64_t>(message->msg_iov[0].iov_len);
}

void SimBackend::put_into(SimLane& lane, const msghdr& message) {
  LaneMessage& queued = lane.push();
  const auto* bytes = static_cast<const std::byte*>(message.msg_iov[0].iov_base);
  queued.payload.assign(bytes, bytes + message.msg_iov[0].iov_len);
  queued.count = 0;
  if (message.msg_controllen > 0) {
    const cmsghdr* control = CMSG_FIRSTHDR(&message);
    const std::size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(control) + i * sizeof fd, sizeof fd);
      add_socket(lane, queued, fd);
    }
  }
  lane.sockets += queued.count;
  if (lane.sockets > lane.window)
    broken(4, fmt::format("lane {}: {} sockets wait in it, and its window is {}", lane.serial,
                          lane.sockets, lane.window));
  ++ledger_.current().messages;
  ledger_.current().handed_off += queued.count;
  context_.note(What::kSent, lane.serial, queued.count);
}

void SimBackend::add_socket(const SimLane& lane, LaneMessage& message, int fd) {
  Client& client = kernel_.client_of(fd);
  if (client.handed()) broken(2, fmt::format("client {} is handed out twice", client.serial));
  if (client.answer != Told::kPlus || !client.answered_whole)
    broken(3, fmt::format("client {} is handed over before '+'", client.serial));
  if (client.consumed != client.line_bytes)
    broken(3, fmt::format("client {} is handed over with {} of {} bytes of its line consumed",
                          client.serial, client.consumed, client.line_bytes));
  if ((lane.services >> client.service & 1) == 0)
    broken(2, fmt::format("client {} is handed to another service", client.serial));
  const std::uint32_t place = kernel_.file(fd).index;
  clients_.hold(place);
  ++client.in_lanes;
  client.decided_ns = context_.now_ns;
  message.clients[message.count++] = place;
}

std::int64_t SimBackend::receive_now(int fd, msghdr* message) {
  const Outside outside;
  SimLane& lane = kernel_.lane_of(fd, File::Kind::kLaneCopy);
  if (context_.fault(Dial::kWakeRace)) kernel_.reader().may_receive_now(kernel_.file(fd).index);
  if (lane.messages == 0) {
    if (!lane.is_shut) return -EAGAIN;
    message->msg_controllen = 0;
    message->msg_flags = 0;
    return 0;
  }
  ++calls_;
  const auto bytes = static_cast<std::int64_t>(lane.front().payload.size());
  take_out(lane, *message);
  return bytes;
}

// As the kernel does it: what finds no descriptor is destroyed, and MSG_CTRUNC says so.
void SimBackend::take_out(SimLane& lane, msghdr& message) {
  const LaneMessage& queued = lane.front();
  std::memcpy(message.msg_iov[0].iov_base, queued.payload.data(), queued.payload.size());
  message.msg_flags = 0;
  std::array<int, kSocketsAtOnceMax> fds;
  std::uint32_t count = 0;
  for (std::uint32_t i = 0; i < queued.count; ++i) {
    const std::uint32_t place = queued.clients[i];
    Client& client = clients_[place];
    const int fd = kernel_.open(
        {.kind = File::Kind::kClient, .owner = static_cast<std::uint8_t>(shard_), .index = place});
    if (fd < 0)
      broken(2, fmt::format("client {} is lost: taken back without a descriptor for it",
                            client.serial));
    --client.in_lanes;
    client.decided_ns = context_.now_ns;
    clients_.let_go(place);
    fds[count++] = fd;
  }
  if (count == 0) {
    message.msg_controllen = 0;
  } else {
    cmsghdr* control = CMSG_FIRSTHDR(&message);
    control->cmsg_level = SOL_SOCKET;
    control->cmsg_type = SCM_RIGHTS;
    control->cmsg_len = CMSG_LEN(count * sizeof(int));
    std::memcpy(CMSG_DATA(control), fds.data(), count * sizeof(int));
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
  }
  ledger_.current().taken_back += count;
  context_.note(What::kTakenBack, lane.serial, count);
  lane.pop();
}

// --- dismissing ---

void SimBackend::dismiss(int fd, std::span<const char> bytes) {
  const Outside outside;
  ++calls_;
  Client& client = kernel_.client_of(fd);
  ledger_.tells(client, bytes);
  client.consumed = client.arrived;
  if (!client.reset) put(client, bytes);
  client.write_is_shut = true;
  context_.note(What::kDismissed, client.serial);
}

int SimBackend::accept_now(int fd) {
  const Outside outside;
  if (accepting_ || kernel_.file_of(fd, File::Kind::kListener).index != listener_)
    broken(0, "accept_now on a listener that is accepted from");
  if (kernel_.listener(listener_).backlog.empty()) return -EAGAIN;
  const int accepted = take_from_backlog();
  if (accepted < 0) return -EMFILE;
  ++calls_;
  note_accepted(accepted);
  return accepted;
}

bool SimBackend::acquire_reserve() {
  if (reserve_ < 0) reserve_ = kernel_.open({.kind = File::Kind::kReserve});
  return reserve_ >= 0;
}

Shed SimBackend::shed(int fd, std::span<const char> bytes) {
  const Outside outside;
  if (kernel_.file_of(fd, File::Kind::kListener).index != listener_)
    broken(0, "shed on another shard's listener");
  if (!acquire_reserve()) return Shed::kNoDescriptor;
  kernel_.close(std::exchange(reserve_, -1));
  const int accepted = take_from_backlog();
  if (accepted >= 0) {
    ++calls_;
    note_accepted(accepted);
    if (refusal_of(bytes) == Refusal::kBusy) ++ledger_.current().shed;
    context_.note(What::kShed, kernel_.client_of(accepted).serial);
    dismiss(accepted, bytes);
    kernel_.close(accepted);
  }
  acquire_reserve();
  return accepted >= 0 ? Shed::kOne : Shed::kNobodyWaits;
}

}  // namespace tcpmux::sim
