// What the linker puts here in the place of what the registry asks of the kernel: the steward's
// loop, the socket at the path, credentials, messages with descriptors, lanes' sockets, memory.
#include <algorithm>
#include <cerrno>

#include "core/server/event_loop.h"
#include "core/server/memory_reserve.h"
#include "handoff/ancillary.h"
#include "handoff/credentials.h"
#include "handoff/lane_sockets.h"
#include "handoff/registry_socket.h"
#include "tests/sim/context.h"
#include "tests/sim/world.h"

namespace tcpmux {

namespace {

using sim::Dial;
using sim::File;

sim::Kernel& kernel() {
  return sim::world->kernel();
}
sim::RegistryKernel& registry() {
  return sim::world->registry_kernel();
}

}  // namespace

// --- core/server/event_loop.cc ---

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  return std::unique_ptr<EventLoop>(new EventLoop(OwnFd()));
}

Status EventLoop::add(int fd, Handler handler) {
  const File::Kind kind = kernel().file(fd).kind;
  if (handlers_.contains(fd)) return std::unexpected(system_error("epoll_ctl", EEXIST));
  // At the start of the world it would be the end of it.
  if (sim::world->is_running() && sim::running->fault(Dial::kNoWatch)) {
    if (kind == File::Kind::kRegistryConnection) registry().connection_of(fd).excused = true;
    return std::unexpected(system_error("epoll_ctl", ENOMEM));
  }
  handlers_[fd] = std::make_shared<Handler>(std::move(handler));
  return {};
}

void EventLoop::remove(int fd) {
  if (handlers_.erase(fd) > 0) kernel().file(fd);  // which is to be open
}

void EventLoop::wait_for(int, Interest) {
  sim::broken(0, "the registry waits for nothing but to read");
}

void EventLoop::add_deadline(std::function<std::int64_t()> at_ns, Handler handler) {
  deadlines_.push_back({std::move(at_ns), std::move(handler)});
}

int EventLoop::wait_ms() const {
  return 0;
}

void EventLoop::run_what_is_due() {
  const std::int64_t now_ns = monotonic_ns();
  for (std::size_t i = 0; i < deadlines_.size(); ++i)
    if (deadlines_[i].at_ns() <= now_ns) deadlines_[i].handler();
}

// One turn: what is readable now, from anywhere on, and what is due. Tells the world when the next
// one is to be.
void EventLoop::run() {
  std::vector<int> ready;
  for (const auto& [fd, handler] : handlers_)
    if (registry().is_readable(fd)) ready.push_back(fd);
  std::sort(ready.begin(), ready.end());
  if (ready.size() > 1) {
    const std::uint32_t first =
        sim::running->random.below(static_cast<std::uint32_t>(ready.size()));
    std::rotate(ready.begin(), ready.begin() + first, ready.end());
  }
  for (const int fd : ready) {
    const auto found = handlers_.find(fd);
    if (found == handlers_.end()) continue;
    const std::shared_ptr<Handler> handler = found->second;
    (*handler)();
  }
  run_what_is_due();
  std::int64_t next_ns = kNever_ns;
  for (const Deadline& deadline : deadlines_)
    next_ns = std::min(next_ns, deadline.at_ns());
  const bool goes_on = std::any_of(handlers_.begin(), handlers_.end(), [](const auto& one) {
    return registry().is_readable(one.first);
  });
  sim::world->loop_is_due(goes_on ? monotonic_ns() : next_ns);
}

// --- core/server/memory_reserve.cc ---

bool memory_is_there_for(std::size_t) {
  if (!sim::running->fault(Dial::kNoLane)) return true;
  registry().excuse_no_room();
  return false;
}

namespace handoff {

// --- handoff/registry_socket.cc ---

RegistrySocket::RegistrySocket(std::string path, OwnFd lock, OwnFd socket)
    : path_(std::move(path)),
      lock_(std::move(lock)),
      socket_(std::move(socket)),
      inode_(registry().at_path()) {
  watch();
}

RegistrySocket::~RegistrySocket() {
  if (socket_.valid() && is_ours_ && is_at_path()) registry().remove_path();
}

Result<RegistrySocket> RegistrySocket::open(const std::string& path) {
  RegistrySocket opened(path, OwnFd(kernel().open({.kind = File::Kind::kLock})),
                        OwnFd(registry().listen()));
  opened.is_ours_ = true;
  return opened;
}

Status RegistrySocket::claim() {
  is_ours_ = true;
  return {};
}

OwnFd RegistrySocket::accept() const {
  const int accepted = registry().accept(socket_.get());
  if (accepted < 0) errno = -accepted;
  return OwnFd(std::max(accepted, -1));
}

bool RegistrySocket::somebody_waits() const {
  return registry().somebody_waits(socket_.get());
}

bool RegistrySocket::is_at_path() const {
  return inode_ != 0 && registry().at_path() == inode_;
}

void RegistrySocket::watch() {
  watch_.reset(registry().watch());
}

void RegistrySocket::read_watch() {
  registry().read_watch(watch_.get());
}

Status RegistrySocket::restore() {
  if (sim::running->fault(Dial::kPathRemoved)) return fail("another program listens at " + path_);
  OwnFd fd(registry().listen());
  if (!fd.valid()) return std::unexpected(system_error("socket", EMFILE));
  socket_ = std::move(fd);
  inode_ = registry().at_path();
  watch();
  return {};
}

// --- handoff/credentials.cc ---

bool Credentials::in_group(gid_t) const {
  return false;
}

Result<Credentials> credentials_of(int socket) {
  const sim::RegistryConnection& connection = registry().connection_of(socket);
  return Credentials{.pid = static_cast<pid_t>(connection.serial), .uid = connection.uid};
}

std::string user_name(uid_t uid) {
  return std::to_string(uid);
}

// --- handoff/ancillary_calls.cc ---

Received receive(int socket, std::span<std::byte> payload, std::span<OwnFd>, int) {
  const std::int64_t result = registry().receive(socket, payload);
  Received received;
  received.kind = result > 0          ? Received::Kind::kMessage
                  : result == 0       ? Received::Kind::kEnd
                  : result == -EAGAIN ? Received::Kind::kEmpty
                                      : Received::Kind::kError;
  received.error = result < 0 && result != -EAGAIN ? static_cast<int>(-result) : 0;
  received.bytes = result > 0 ? static_cast<std::size_t>(result) : 0;
  return received;
}

int send_now(int socket, std::span<const std::byte> payload, std::span<const int> descriptors) {
  return registry().send_now(socket, payload, descriptors);
}

// --- handoff/lane_sockets.cc ---

Result<LaneSockets> make_lane_sockets(LaneKind kind) {
  if (sim::running->fault(Dial::kNoLane) || !kernel().has_room(2)) {
    registry().excuse_no_room();
    return std::unexpected(system_error("socketpair", EMFILE));
  }
  const std::uint32_t lane = kernel().make_lane();
  kernel().lane(lane).raw = kind != LaneKind::kMessages;
  return LaneSockets{
      .ours = OwnFd(kernel().open({.kind = File::Kind::kLaneOurs, .index = lane})),
      .theirs = OwnFd(kernel().open({.kind = File::Kind::kLaneCopy, .index = lane}))};
}

Result<std::uint32_t> fit_window(int fd, std::uint32_t window) {
  sim::SimLane& lane = kernel().lane(kernel().file_of(fd, File::Kind::kLaneOurs).index);
  const auto fits = static_cast<std::uint32_t>(sim::running->dials[Dial::kBufferPlaces]);
  lane.window = std::min(fits, window);
  return lane.window;
}

}  // namespace handoff
}  // namespace tcpmux
