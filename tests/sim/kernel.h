// The simulated kernel, apart from the clients' TCP: the mux's table of descriptors, its listeners,
// and the lanes' queues. Descriptors are numbered from a million upward, so that whatever closes
// one knows that it is not a real one.
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

struct File {
  enum class Kind : std::uint8_t { kNone, kClient, kListener, kLaneOurs, kLaneCopy, kReserve };
  Kind kind = Kind::kNone;
  std::uint8_t owner = kNobody;  // client: the shard
  std::uint32_t index = 0;       // client's place, lane's place, listener
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

// A socket pair. The queue lives as long as somebody holds the backend's end.
struct SimLane {
  std::uint64_t serial = 0;  // 0 exactly when the place is free
  std::uint64_t backend = 0;
  std::uint32_t backend_place = 0;
  std::uint32_t shard = 0;
  std::uint32_t services = 0;  // bit n: service n
  std::uint32_t window = 0;
  bool raw = false;
  bool ours_open = false;
  bool copy_open = false;
  bool theirs_open = false;        // the backend's own
  bool is_shut = false;            // its backend has called shutdown
  std::int64_t full_until_ns = 0;  // the user's limit of sockets in flight is met
  std::uint32_t sockets = 0;       // in the queue
  // A ring over places that keep their memory.
  std::vector<LaneMessage> queue;
  std::uint32_t first = 0;
  std::uint32_t messages = 0;

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

class Kernel {
 public:
  Kernel(Context& context, Clients& clients) : context_(context), clients_(clients) {}
  void set_descriptors_max(std::uint32_t count) { descriptors_max_ = count; }

  // -1 at the limit.
  int open(File file);
  bool has_room(std::uint32_t count) const { return open_ + count <= descriptors_max_; }
  std::uint32_t open_count() const { return open_; }
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

  std::uint32_t make_lane(std::uint32_t window);
  SimLane& lane(std::uint32_t place) { return lanes_[place]; }
  std::uint32_t lanes() const { return static_cast<std::uint32_t>(lanes_.size()); }
  // The backend's own copy of its end is closed.
  void leave_lane(std::uint32_t place);
  void set_reader(LaneReader* reader) { reader_ = reader; }
  LaneReader& reader() { return *reader_; }

  std::uint64_t lost_with_lanes() const { return lost_with_lanes_; }
  // From now on a lane's queue may die with sockets in it: the mux has ended.
  void mux_has_ended() { ended_ = true; }
  bool has_ended() const { return ended_; }

 private:
  void close_lane_end(std::uint32_t place, bool SimLane::* end);

  Context& context_;
  Clients& clients_;
  std::uint32_t descriptors_max_ = 0;
  std::vector<File> files_;
  std::vector<int> free_;
  std::uint32_t open_ = 0;
  std::array<std::uint32_t, 256> owned_{};
  std::array<SimListener, kShardsMax> listeners_;
  std::vector<SimLane> lanes_;
  std::uint64_t next_lane_ = 1;
  LaneReader* reader_ = nullptr;
  std::uint64_t lost_with_lanes_ = 0;
  bool ended_ = false;
};

}  // namespace tcpmux::sim
