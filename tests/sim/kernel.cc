#include "tests/sim/kernel.h"

#include <fmt/format.h>

#include <algorithm>

#include "tests/sim/registry_kernel.h"

namespace tcpmux::sim {

int Kernel::open(File file) {
  if (open_[process_] >= descriptors_max_) return -1;
  file.process = static_cast<std::uint8_t>(process_);
  count(file);
  // The number that was closed last: whoever goes on using an old one meets somebody else.
  if (free_.empty()) {
    files_.push_back(file);
    return kFirstDescriptor + static_cast<int>(files_.size()) - 1;
  }
  const int fd = free_.back();
  free_.pop_back();
  files_[static_cast<std::size_t>(fd - kFirstDescriptor)] = file;
  return fd;
}

void Kernel::count(const File& file) {
  ++open_[file.process];
  ++of_kind_[file.process][static_cast<std::size_t>(file.kind)];
  switch (file.kind) {
    case File::Kind::kClient:
      clients_.hold(file.index);
      ++owned_[file.owner];
      return;
    case File::Kind::kListener:
      ++listeners_[file.index].references;
      return;
    case File::Kind::kLaneOurs:
      ++lanes_[file.index].ours[file.process];
      return;
    case File::Kind::kLaneCopy:
      ++lanes_[file.index].copies[file.process];
      return;
    case File::Kind::kRegistryListener:
    case File::Kind::kRegistryConnection:
      registry_->hold(file);
      return;
    case File::Kind::kRegistryWatch:
    case File::Kind::kReserve:
    case File::Kind::kLock:
    case File::Kind::kNone:
      return;
  }
}

int Kernel::duplicate(int fd) {
  return open(file(fd));
}

void Kernel::adopt(int fd) {
  File& moved = file(fd);
  const auto kind = static_cast<std::size_t>(moved.kind);
  --open_[moved.process];
  --of_kind_[moved.process][kind];
  moved.process = static_cast<std::uint8_t>(process_);
  ++open_[moved.process];
  ++of_kind_[moved.process][kind];
}

File& Kernel::file(int fd) {
  const auto index = static_cast<std::size_t>(fd - kFirstDescriptor);
  if (fd < kFirstDescriptor || index >= files_.size() || files_[index].kind == File::Kind::kNone)
    broken(1, fmt::format("descriptor {} is used, and is not open", fd));
  return files_[index];
}

File& Kernel::file_of(int fd, File::Kind kind) {
  File& found = file(fd);
  if (found.kind != kind) broken(1, fmt::format("descriptor {} is something else by now", fd));
  return found;
}

Client& Kernel::client_of(int fd) {
  File& found = file_of(fd, File::Kind::kClient);
  Client& client = clients_[found.index];
  if (found.owner != context_.shard)
    broken(1, fmt::format("client {}: used by shard {}, and belongs to shard {}", client.serial,
                          context_.shard, found.owner));
  return client;
}

SimLane& Kernel::lane_of(int fd, File::Kind kind) {
  SimLane& lane = lanes_[file_of(fd, kind).index];
  if (lane.shard != context_.shard)
    broken(1, fmt::format("lane {}: used by shard {}, and belongs to shard {}", lane.serial,
                          context_.shard, lane.shard));
  return lane;
}

void Kernel::give_to(int fd, std::uint32_t shard) {
  File& found = file_of(fd, File::Kind::kClient);
  --owned_[found.owner];
  found.owner = static_cast<std::uint8_t>(shard);
  ++owned_[shard];
}

void Kernel::close(int fd) {
  File& found = file(fd);
  const File closed = std::exchange(found, {});
  free_.push_back(fd);
  --open_[closed.process];
  --of_kind_[closed.process][static_cast<std::size_t>(closed.kind)];
  switch (closed.kind) {
    case File::Kind::kClient: {
      --owned_[closed.owner];
      Client& client = clients_[closed.index];
      if (client.operation.kind != PendingOperation::Kind::kNone)
        broken(0, fmt::format("client {}: closed with an operation in flight", client.serial));
      client.watcher = nullptr;
      context_.note(What::kCloses, client.serial, fd);
      clients_.let_go(closed.index);
      return;
    }
    case File::Kind::kListener: {
      SimListener& listener = listeners_[closed.index];
      if (--listener.references > 0) return;
      for (const std::uint32_t client : listener.backlog)
        clients_.let_go(client);
      listener.backlog.clear();
      return;
    }
    case File::Kind::kLaneOurs:
      --lanes_[closed.index].ours[closed.process];
      return look_after_lane(closed.index);
    case File::Kind::kLaneCopy:
      --lanes_[closed.index].copies[closed.process];
      return look_after_lane(closed.index);
    case File::Kind::kRegistryListener:
    case File::Kind::kRegistryConnection:
    case File::Kind::kRegistryWatch:
      return registry_->close(closed);
    case File::Kind::kReserve:
    case File::Kind::kLock:
    case File::Kind::kNone:
      return;
  }
}

std::uint32_t Kernel::close_all() {
  std::uint32_t closed = 0;
  for (std::size_t i = 0; i < files_.size(); ++i) {
    if (files_[i].kind == File::Kind::kNone) continue;
    if (files_[i].kind == File::Kind::kClient) clients_[files_[i].index].operation = {};
    close(kFirstDescriptor + static_cast<int>(i));
    ++closed;
  }
  return closed;
}

LaneMessage& SimLane::push() {
  if (messages == queue.size()) {
    // In order from the begin, so that there is room behind the last.
    std::rotate(queue.begin(), queue.begin() + first, queue.end());
    first = 0;
    queue.emplace_back();
  }
  return queue[(first + messages++) % queue.size()];
}

std::uint32_t Kernel::make_lane() {
  std::uint32_t place = 0;
  while (place < lanes_.size() && lanes_[place].serial != 0)
    ++place;
  if (place == lanes_.size()) lanes_.emplace_back();
  SimLane& lane = lanes_[place];
  std::vector<LaneMessage> queue = std::move(lane.queue);
  lane = SimLane{};
  lane.queue = std::move(queue);
  lane.serial = next_lane_++;
  return place;
}

void Kernel::leave_lane(std::uint32_t place) {
  if (lanes_[place].theirs-- == 0)
    broken(1, fmt::format("lane {}: an end is closed twice", lanes_[place].serial));
  look_after_lane(place);
}

void Kernel::look_after_lane(std::uint32_t place) {
  SimLane& lane = lanes_[place];
  if (lane.is_held()) return;
  // Nobody can receive any more, so what waits is lost.
  while (lane.messages > 0) {
    const LaneMessage& message = lane.front();
    for (std::uint32_t i = 0; i < message.count; ++i) {
      Client& client = clients_[message.clients[i]];
      if (!ended_)
        broken(2, fmt::format("client {} is lost in the queue of lane {}", client.serial,
                              lane.serial));
      --client.in_lanes;
      clients_.let_go(message.clients[i]);
    }
    lane.pop();
  }
  if (lane.ours[0] + lane.ours[1] == 0) lane.serial = 0;
}

}  // namespace tcpmux::sim
