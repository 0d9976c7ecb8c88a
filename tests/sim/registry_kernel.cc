#include "tests/sim/registry_kernel.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace tcpmux::sim {
namespace {

constexpr std::size_t kBacklog = 16;
// What one direction of a connection holds.
constexpr std::size_t kMessagesMax = 8;

}  // namespace

RegistryKernel::RegistryKernel(Context& context, Kernel& kernel)
    : context_(context), kernel_(kernel) {
  kernel_.set_registry(this);
}

// --- the backends' half ---

std::uint32_t RegistryKernel::connect(std::uint32_t backend, std::uint32_t uid) {
  if (at_path_ == 0 || listeners_[at_path_ - 1].backlog.size() >= kBacklog) return kNoConnection;
  std::uint32_t place = 0;
  while (place < connections_.size() && connections_[place].serial != 0)
    ++place;
  if (place == connections_.size()) connections_.emplace_back();
  RegistryConnection& connection = connections_[place];
  connection = RegistryConnection{};
  connection.serial = next_serial_++;
  connection.backend = backend;
  connection.uid = uid;
  connection.references = 1;
  connection.theirs_open = true;
  listeners_[at_path_ - 1].backlog.push_back(place);
  ++news_;
  return place;
}

bool RegistryKernel::send(std::uint32_t place, std::vector<std::byte> payload) {
  RegistryConnection& connection = connections_[place];
  if (connection.references == 0) return false;
  if (connection.to_mux.size() >= kMessagesMax) return true;  // EAGAIN: it is not said
  connection.to_mux.push_back({.payload = std::move(payload)});
  ++news_;
  return true;
}

bool RegistryKernel::receive(std::uint32_t place, RegistryMessage& message) {
  RegistryConnection& connection = connections_[place];
  if (connection.to_backend.empty()) return false;
  message = std::move(connection.to_backend.front());
  connection.to_backend.pop_front();
  return true;
}

void RegistryKernel::leave(std::uint32_t place) {
  RegistryConnection& connection = connections_[place];
  connection.theirs_open = false;
  connection.was_reset = !connection.to_backend.empty();
  lose(connection.to_backend);
  ++news_;
  free_if_left(place);
}

void RegistryKernel::lose(std::deque<RegistryMessage>& messages) {
  for (const RegistryMessage& message : std::exchange(messages, {}))
    for (const std::uint32_t lane : message.lanes)
      kernel_.leave_lane(lane);
}

void RegistryKernel::free_if_left(std::uint32_t place) {
  RegistryConnection& connection = connections_[place];
  if (connection.references > 0 || connection.theirs_open) return;
  lose(connection.to_backend);
  connection = RegistryConnection{};
}

void RegistryKernel::remove_path() {
  at_path_ = 0;
  watches_.assign(watches_.size(), true);
  ++news_;
}

// --- the mux's half ---

int RegistryKernel::listen() {
  listeners_.emplace_back();
  const int fd = kernel_.open({.kind = File::Kind::kRegistryListener,
                               .index = static_cast<std::uint32_t>(listeners_.size())});
  if (fd >= 0) at_path_ = listeners_.size();
  return fd;
}

int RegistryKernel::accept(int fd) {
  Listener& listener = listeners_[kernel_.file_of(fd, File::Kind::kRegistryListener).index - 1];
  if (context_.fault(Dial::kRegistryAccept))
    return context_.random.below(2) == 0 ? -EMFILE : -ECONNABORTED;
  if (listener.backlog.empty()) return -EAGAIN;
  const std::uint32_t place = listener.backlog.front();
  const int accepted = kernel_.open({.kind = File::Kind::kRegistryConnection, .index = place});
  if (accepted < 0) return -EMFILE;
  listener.backlog.pop_front();
  --connections_[place].references;  // the backlog's
  connections_[place].accepted_ns = context_.now_ns;
  ++news_;
  return accepted;
}

bool RegistryKernel::somebody_waits(int fd) {
  return !listeners_[kernel_.file_of(fd, File::Kind::kRegistryListener).index - 1].backlog.empty();
}

int RegistryKernel::watch() {
  if (at_path_ == 0 || context_.fault(Dial::kNoWatch)) return -1;
  watches_.push_back(false);
  return kernel_.open({.kind = File::Kind::kRegistryWatch,
                       .index = static_cast<std::uint32_t>(watches_.size() - 1)});
}

void RegistryKernel::read_watch(int fd) {
  if (fd >= 0) watches_[kernel_.file_of(fd, File::Kind::kRegistryWatch).index] = false;
}

bool RegistryKernel::is_readable(int fd) {
  const File& file = kernel_.file(fd);
  if (file.kind == File::Kind::kRegistryListener) return somebody_waits(fd);
  if (file.kind == File::Kind::kRegistryWatch) return watches_[file.index];
  const RegistryConnection& connection = connection_of(fd);
  return !connection.to_mux.empty() || !connection.theirs_open;
}

RegistryConnection& RegistryKernel::connection_of(int fd) {
  return connections_[kernel_.file_of(fd, File::Kind::kRegistryConnection).index];
}

// An error of the connection is told before what is in its queue.
std::int64_t RegistryKernel::receive(int fd, std::span<std::byte> payload) {
  RegistryConnection& connection = connection_of(fd);
  no_room_is_excused_ = false;
  if (std::exchange(connection.was_reset, false)) return -ECONNRESET;
  if (connection.to_mux.empty()) return connection.theirs_open ? -EAGAIN : 0;
  const RegistryMessage message = std::move(connection.to_mux.front());
  connection.to_mux.pop_front();
  ++news_;
  const std::size_t bytes = std::min(message.payload.size(), payload.size());
  std::memcpy(payload.data(), message.payload.data(), bytes);
  return static_cast<std::int64_t>(bytes);
}

int RegistryKernel::send_now(int fd, std::span<const std::byte> payload,
                             std::span<const int> descriptors) {
  const std::uint32_t place = kernel_.file_of(fd, File::Kind::kRegistryConnection).index;
  RegistryConnection& connection = connections_[place];
  connection.asked_ns = kNever_ns;
  reader_->registry_sends(place, payload);
  if (std::exchange(connection.was_reset, false)) return ECONNRESET;
  if (!connection.theirs_open) return EPIPE;
  const bool is_full = connection.to_backend.size() >= kMessagesMax;
  if (is_full || context_.fault(Dial::kRegistryFull)) {
    connection.excused = true;
    return is_full || context_.random.below(2) == 0 ? EAGAIN : ENOBUFS;
  }
  RegistryMessage message{.payload = {payload.begin(), payload.end()}};
  for (const int end : descriptors) {
    message.lanes.push_back(kernel_.file_of(end, File::Kind::kLaneCopy).index);
    kernel_.hold_lane(message.lanes.back());
  }
  connection.to_backend.push_back(std::move(message));
  reader_->registry_says_something(place);
  return 0;
}

// --- for the world ---

void RegistryKernel::hold(const File& file) {
  if (file.kind == File::Kind::kRegistryListener)
    ++listeners_[file.index - 1].references;
  else
    ++connections_[file.index].references;
}

void RegistryKernel::close(const File& file) {
  if (file.kind == File::Kind::kRegistryConnection) return let_go(file.index);
  if (file.kind != File::Kind::kRegistryListener) return;
  Listener& listener = listeners_[file.index - 1];
  if (--listener.references > 0) return;
  if (at_path_ == file.index) at_path_ = 0;
  for (const std::uint32_t place : std::exchange(listener.backlog, {})) {
    connections_[place].excused = true;
    let_go(place);
  }
}

// What was sent to the mux and not read is lost with the last descriptor.
void RegistryKernel::let_go(std::uint32_t place) {
  RegistryConnection& connection = connections_[place];
  if (--connection.references > 0) return;
  lose(connection.to_mux);
  if (connection.theirs_open) reader_->registry_says_something(place);
  free_if_left(place);
}

}  // namespace tcpmux::sim
