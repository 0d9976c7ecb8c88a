// The simulated kernel, the part about the registry: the socket at its path, and the connections
// between backends and the mux (SOCK_SEQPACKET), with descriptors on their way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "tests/sim/context.h"
#include "tests/sim/kernel.h"

namespace tcpmux::sim {

inline constexpr std::uint32_t kNoConnection = UINT32_MAX;
// Who may register, and who may not; nobody whom the simulator runs as.
inline constexpr std::uint32_t kUser = 3'000'000'001;
inline constexpr std::uint32_t kStranger = 3'000'000'002;

// `lanes`: of which a far end is in the message.
struct RegistryMessage {
  std::vector<std::byte> payload{};
  std::vector<std::uint32_t> lanes{};
};

struct RegistryConnection {
  std::uint64_t serial = 0;      // 0 exactly when the place is free
  std::uint32_t backend = 0;     // the place of who made it
  std::uint32_t uid = 0;         // and its user
  std::uint32_t references = 0;  // of the mux: descriptors, and a place in a backlog
  bool theirs_open = false;      // the backend's own
  bool was_reset = false;        // it was closed with something unread: told once, by ECONNRESET
  bool excused = false;          // a fault has struck it: it may end without a word
  std::int64_t accepted_ns = kNever_ns;
  std::int64_t asked_ns = kNever_ns;  // since when an answer is due
  std::deque<RegistryMessage> to_mux;
  std::deque<RegistryMessage> to_backend;
};

// Told of what concerns backends.
class RegistryReader {
 public:
  // A message has come, or the mux has closed the connection.
  virtual void registry_says_something(std::uint32_t connection) = 0;
  // The mux sends this just now.
  virtual void registry_sends(std::uint32_t connection, std::span<const std::byte> payload) = 0;

 protected:
  ~RegistryReader() = default;
};

class RegistryKernel {
 public:
  RegistryKernel(Context& context, Kernel& kernel);
  void set_reader(RegistryReader* reader) { reader_ = reader; }

  // --- the backends' half ---
  // kNoConnection where nobody listens at the path, or the backlog is full.
  std::uint32_t connect(std::uint32_t backend, std::uint32_t uid);
  // False where the mux has closed it.
  bool send(std::uint32_t connection, std::vector<std::byte> payload);
  // False when there is none. The far ends in it are the backend's from then on.
  bool receive(std::uint32_t connection, RegistryMessage& message);
  void leave(std::uint32_t connection);
  RegistryConnection& operator[](std::uint32_t connection) { return connections_[connection]; }
  std::uint32_t size() const { return static_cast<std::uint32_t>(connections_.size()); }
  // The file at the path is removed.
  void remove_path();

  // --- the mux's half, for what stands in the place of production's calls (seams_registry.cc) ---
  int listen();
  // A descriptor, or a negative errno.
  int accept(int fd);
  bool somebody_waits(int fd);
  // Which listener the path leads to; 0: none.
  std::uint64_t at_path() const { return at_path_; }
  int watch();
  void read_watch(int fd);
  bool is_readable(int fd);
  // Bytes, 0 at the end, or a negative errno.
  std::int64_t receive(int fd, std::span<std::byte> payload);
  // 0 or an errno.
  int send_now(int fd, std::span<const std::byte> payload, std::span<const int> descriptors);
  RegistryConnection& connection_of(int fd);
  // No lane could be made, or memory is short: what is refused next for want of room may be.
  void excuse_no_room() { no_room_is_excused_ = true; }
  bool no_room_is_excused() const { return no_room_is_excused_; }

  // --- for the world ---
  // Something has happened that a steward may hear of. It is a number that only grows.
  std::uint64_t news() const { return news_; }
  // Of Kernel: another descriptor is there, or one is gone.
  void hold(const File& file);
  void close(const File& file);

 private:
  struct Listener {
    std::uint32_t references = 0;
    std::deque<std::uint32_t> backlog;
  };
  void let_go(std::uint32_t connection);
  void free_if_left(std::uint32_t connection);
  void lose(std::deque<RegistryMessage>& messages);

  Context& context_;
  Kernel& kernel_;
  RegistryReader* reader_ = nullptr;
  std::vector<Listener> listeners_;  // number n is at n - 1
  std::uint64_t at_path_ = 0;
  std::deque<RegistryConnection> connections_;
  std::vector<bool> watches_;  // whether the path has changed
  std::uint64_t next_serial_ = 1;
  std::uint64_t news_ = 1;
  bool no_room_is_excused_ = false;
};

}  // namespace tcpmux::sim
