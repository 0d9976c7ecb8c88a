// The simulated kernel, apart from the clients' TCP and the registry's socket (registry_kernel.h):
// the tables of descriptors of the mux's processes, their listeners, and the lanes' queues.
// Descriptors are numbered from a million upward, so that whatever closes one knows that it is not
// a real one; no number is two processes' at a time.
//
// A descriptor of a client's socket has an owner, the shard that uses it: nobody else may.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tests/sim/client.h"
#include "tests/sim/context.h"

namespace tcpmux::sim {

inline constexpr int kFirstDescriptor = 1'000'000;
inline constexpr std::uint32_t kShardsMax = 8;
inline constexpr std::uint32_t kSocketsAtOnceMax = 64;

inline constexpr std::uint32_t kProcessesMax = 2;

struct File {
  enum class Kind : std::uint8_t {
    kNone,
    kClient,
    kListener,
    kLaneOurs,
    kLaneCopy,
    kReserve,
    kRegistryListener,
    kRegistryConnection,
    kRegistryWatch,
    kLock,
  };
  Kind kind = Kind::kNone;
  std::uint8_t owner = kNobody;  // client: the shard
  std::uint32_t index = 0;       // client's place, lane's place, listener
  std::uint8_t process = 0;      // in whose table it is
};

struct SimListener {
  std::uint32_t references = 0;        // descriptors, of all processes
  std::vector<std::uint32_t> backlog;  // clients
  bool is_open() const { return references > 0; }
};

struct LaneMessage {
  std::vector<std::byte> payload;
  std::array<std::uint32_t, kSocketsAtOnceMax> clients;
  std::uint32_t count = 0;  // of clients; 0: a probe
};

// How many descriptors there are of one end of a socket pair, by the mux's process.
using EndsHeld = std::array<std::uint32_t, kProcessesMax>;

// A socket pair. The queue lives as long as somebody holds the backend's end.
struct SimLane {
  std::uint64_t serial = 0;                  // 0 exactly when the place is free
  std::uint32_t backend_place = UINT32_MAX;  // of whoever was welcomed with it
  std::uint32_t shard = kNobody;             // to whom the registry gave it
  std::uint32_t services = 0;                // bit n: service n
  std::uint32_t window = 0;
  bool raw = false;
  EndsHeld ours{};
  EndsHeld copies{};
  std::uint32_t theirs = 0;        // the backend's own, and those on their way to it
  bool is_shut = false;            // its backend has called shutdown
  std::int64_t full_until_ns = 0;  // the user's limit of sockets in flight is met
  std::uint32_t sockets = 0;       // in the queue
  // A ring over places that keep their memory.
  std::vector<LaneMessage> queue;
  std::uint32_t first = 0;
  std::uint32_t messages = 0;

  bool is_held() const { return copies[0] + copies[1] + theirs > 0; }
  LaneMessage& front() { return queue[first]; }
  LaneMessage& push();
  void pop() {
    sockets -= queue[first].count;
    first = (first + 1) % static_cast<std::uint32_t>(queue.size());
    --messages;
  }
};

// Told that a lane has something, by the kernel.
class LaneReader {
 public:
  virtual void lane_has_something(std::uint32_t lane) = 0;
  // In the middle of a shard's call: the backend may receive right now.
  virtual void may_receive_now(std::uint32_t lane) = 0;

 protected:
  ~LaneReader() = default;
};

class RegistryKernel;

class Kernel {
 public:
  Kernel(Context& context, Clients& clients) : context_(context), clients_(clients) {}
  void set_descriptors_max(std::uint32_t count) { descriptors_max_ = count; }
  void set_registry(RegistryKernel* registry) { registry_ = registry; }

  // Which process of the mux runs from now on.
  void enter(std::uint32_t process) { process_ = process; }
  std::uint32_t process() const { return process_; }

  // In the table of the process that runs; -1 at its limit.
  int open(File file);
  // Another descriptor of the same file, in the table of the process that runs.
  int duplicate(int fd);
  // From the other process's table into that of the one that runs.
  void adopt(int fd);
  bool has_room(std::uint32_t count) const { return open_[process_] + count <= descriptors_max_; }
  std::uint32_t open_in(std::uint32_t process) const { return open_[process]; }
  std::uint32_t open_of(File::Kind kind, std::uint32_t process) const {
    return of_kind_[process][static_cast<std::size_t>(kind)];
  }
  // The file behind it; what is not open breaks an invariant.
  File& file(int fd);
  // Of a kind, used by the shard whose turn it is.
  File& file_of(int fd, File::Kind kind);
  Client& client_of(int fd);
  SimLane& lane_of(int fd, File::Kind kind);
  void close(int fd);
  void give_to(int fd, std::uint32_t shard);
  std::uint32_t owned_by(std::uint32_t shard) const { return owned_[shard]; }
  // The process has ended: whatever is open is closed.
  std::uint32_t close_all();

  SimListener& listener(std::uint32_t number) { return listeners_[number]; }
  // A client stands in the backlog of a listener that is open.
  void connect(std::uint32_t listener, std::uint32_t client) {
    listeners_[listener].backlog.push_back(client);
  }

  std::uint32_t make_lane();
  SimLane& lane(std::uint32_t place) { return lanes_[place]; }
  std::uint32_t lanes() const { return static_cast<std::uint32_t>(lanes_.size()); }
  // One more of the backend's own end is there, or one less.
  void hold_lane(std::uint32_t place) { ++lanes_[place].theirs; }
  void leave_lane(std::uint32_t place);
  void set_reader(LaneReader* reader) { reader_ = reader; }
  LaneReader& reader() { return *reader_; }

  // From now on a lane's queue may die with sockets in it: the mux has ended.
  void mux_has_ended() { ended_ = true; }
  bool has_ended() const { return ended_; }

 private:
  void count(const File& file);
  void look_after_lane(std::uint32_t place);

  Context& context_;
  Clients& clients_;
  std::uint32_t descriptors_max_ = 0;
  std::vector<File> files_;
  std::vector<int> free_;
  std::array<std::uint32_t, kProcessesMax> open_{};
  std::array<std::array<std::uint32_t, static_cast<std::size_t>(File::Kind::kLock) + 1>,
             kProcessesMax>
      of_kind_{};
  std::uint32_t process_ = 0;
  RegistryKernel* registry_ = nullptr;
  std::array<std::uint32_t, 256> owned_{};
  std::array<SimListener, kShardsMax> listeners_;
  std::vector<SimLane> lanes_;
  std::uint64_t next_lane_ = 1;
  LaneReader* reader_ = nullptr;
  bool ended_ = false;
};

}  // namespace tcpmux::sim
