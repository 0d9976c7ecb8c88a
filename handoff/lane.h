// One lane, as the shard that writes into it sees it: what waits in its queue, what is promised,
// and whether it moves. Bookkeeping only; the router (router.h) does the sending and receiving.
//
// Three kinds of sockets count against the window:
//   reserved   a place is promised ('+' may be on its way); the socket is still with its slot
//   collected  in the list that the next messages are made of
//   queued     sent, and not known to have been received: an upper bound, made exact by settle()
//
// What is queued is known from the kernel: the payload bytes that wait (SIOCINQ on our copy of the
// backend's end) name the messages at the end of `sent` that are still there, because a queue is
// first in, first out and a message leaves it whole.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/base/fd.h"
#include "core/base/planted.h"
#include "core/base/slot_pool.h"
#include "core/mux/service_table.h"
#include "core/server/handoff_sink.h"
#include "handoff/message.h"

namespace tcpmux::handoff {

// What the registry says to a shard's router. A new lane comes as itself.
struct RouterMessage : SinkMessage {
  enum class Kind { kLane, kDrainBackend, kBackendGone, kRoutes, kMoreRoutes, kTimes };
  explicit RouterMessage(Kind of) : kind(of) {}
  Kind kind;
};

struct BackendCommand final : RouterMessage {
  BackendCommand(Kind of, std::uint64_t id) : RouterMessage(of), backend(id) {}
  std::uint64_t backend;
};

// For each service that has changed: which shards have lanes for it, and how many backends serve
// it.
struct RoutesCommand final : RouterMessage {
  struct Entry {
    ServiceId service = kNoService;
    std::uint64_t shards = 0;  // bit n: shard n
    std::uint32_t backends = 0;
  };
  RoutesCommand() : RouterMessage(Kind::kRoutes) {}
  std::vector<Entry> entries;
  std::uint64_t version = 0;  // of the registry's picture; each command has a higher one
};

// What a router knows of one service.
struct Route {
  std::uint32_t first = kNoLane;  // serving and stalled lanes of this shard, by next_for
  std::uint64_t shards = 0;       // who has lanes for it, this shard included
  std::uint32_t backends = 0;
  // The lane that was chosen last, for so many more sockets until the next flush().
  std::uint32_t chosen = kNoLane;
  std::uint32_t chosen_left = 0;
  std::uint64_t chosen_in = 0;  // Router::choices_, when it was
};

// Places for more services, made by the registry, because a shard allocates nothing.
struct MoreRoutes final : RouterMessage {
  explicit MoreRoutes(std::size_t count) : RouterMessage(Kind::kMoreRoutes), routes(count) {}
  std::vector<Route> routes;
};

struct TimesCommand final : RouterMessage {
  TimesCommand(std::int64_t stall, std::int64_t deadline)
      : RouterMessage(Kind::kTimes), stall_ns(stall), deadline_ns(deadline) {}
  std::int64_t stall_ns;
  std::int64_t deadline_ns;
};

// What a router tells the registry (StewardMessage::Kind::kSinkNotice: number is the backend).
enum class LaneNotice : std::uint32_t {
  kBroken,     // sending failed; amount: errno
  kStalled,    // its queue does not move; amount: sockets in it
  kResumed,    // it moves again
  kTakenBack,  // amount: sockets
  kRoutes,     // RouterOptions::routes_version has a new value; number is that
};

// A lane is made by the registry (the steward's thread), belongs to one shard from then on, and
// comes back when it has ended, or when the shard is to give it away: it is itself the message.
class Lane final : public RouterMessage {
 public:
  struct Setup {
    OwnFd ours;                 // our end: we send here
    OwnFd copy_of_theirs;       // the backend's end: we take back from here
    std::uint64_t backend = 0;  // which registration it belongs to
    std::vector<ServiceId> services;
    LaneKind kind = LaneKind::kMessages;
    bool without_addresses = false;  // the backend does not want them told
    std::uint32_t window = 1;
    std::uint16_t batch = 1;
  };
  explicit Lane(Setup setup);
  std::uint32_t shard = 0;  // whose it is

  struct Message {
    std::uint32_t bytes = 0;
    std::uint32_t sockets = 0;
  };
  // The messages that wait in the queue, oldest first, as far as we know; and their restoring.
  std::vector<Message> waiting() const;
  void restore(const std::vector<Message>& messages, std::int64_t moved_at_ns);
  std::int64_t moved_at_ns() const { return moved_at_ns_; }

  // Places that can still be promised.
  std::uint32_t room() const {
    const std::uint32_t used = reserved + collected + queued_;
    const std::uint32_t limit = on_probation ? 1 : setup.window;
    if (planted(Bug::kPlusWithoutPlace) && used >= limit) return 1;
    return stalled || used >= limit ? 0 : limit - used;
  }
  std::uint32_t queued() const { return queued_; }

  // A message of `bytes` with `sockets` is in the queue.
  void sent(std::uint32_t bytes, std::uint32_t sockets, std::int64_t now_ns);
  // `waiting_bytes` are in the queue now: what is no longer among them was received. True when
  // that is anything.
  bool settle(std::uint32_t waiting_bytes, std::int64_t now_ns);
  // The queue was emptied by us, not by the backend.
  void emptied();
  // How long the queue has not moved while something waited in it.
  std::int64_t still_for_ns(std::int64_t now_ns) const {
    return messages_ == 0 ? 0 : now_ns - moved_at_ns_;
  }
  std::int64_t settled_at_ns() const { return settled_at_ns_; }

  bool queue_is_empty() const { return messages_ == 0; }

  Setup setup;
  std::vector<std::uint32_t> next_for;  // the router's: the next lane of services[i]
  std::uint32_t reserved = 0;
  std::uint32_t collected = 0;    // in the list below
  std::uint32_t first = kNoSlot;  // the list, through Connection::next_in_lane
  std::uint32_t last = kNoSlot;
  bool is_unsent = false;        // stands in the router's list of lanes to be flushed
  std::int64_t retry_at_ns = 0;  // no sending before: the kernel had no room
  bool linked = false;           // in the routes: places in it are promised
  bool drained = false;          // it comes to a shard when its backend wants no more already
  bool gone = false;             // its backend is gone: what it did not receive is taken back
  bool broken = false;           // sending failed for good: the registry ends it
  bool broken_reported = false;  // and has been told so
  bool stalled = false;          // its queue did not move: nothing until it is empty
  bool risk_one = false;         // stalled and raw, and emptied by us: probation comes next
  std::int64_t stalled_at_ns = 0;
  bool on_probation = false;  // a raw lane that stalled: one socket, to see it taken

 private:
  std::unique_ptr<Message[]> sent_;  // a ring; as many as the window, and one probe
  std::uint32_t capacity_;
  std::uint32_t first_message_ = 0;
  std::uint32_t messages_ = 0;
  std::uint32_t queued_ = 0;        // sockets in those messages
  std::uint32_t queued_bytes_ = 0;  // bytes of those messages
  std::int64_t moved_at_ns_ = 0;
  std::int64_t settled_at_ns_ = 0;
};

}  // namespace tcpmux::handoff
