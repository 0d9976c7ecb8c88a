// What the threads say to each other: the steward and other shards to a shard, and a shard to the
// steward. Everything goes through mailboxes (core/base/mailbox.h).
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "core/base/mailbox.h"
#include "core/mux/reply.h"
#include "core/mux/service_table.h"
#include "core/server/handoff_sink.h"
#include "core/server/shard_options.h"

namespace tcpmux {

struct ShardMessage {
  enum class Kind : std::uint8_t {
    kNone,
    kConnection,  // connection: from another shard
    kInherited,   // connection: from the process before us
    kTable,       // table
    kSink,        // sink
    kChange,      // change
    kPause,       // stop accepting, give the lanes away, report kShardPaused
    kResume,      // it was for nothing: accept again; the lanes come back as new ones
    kLeave,       // after kPause: finish what is under way, pass on what needs a lane
    kShutdown,    // deadline_ns: stop accepting, finish what is under way until then
    kReport,      // number: say again when you are done, with this number
    kStop,        // all shards are done
  };
  Kind kind = Kind::kNone;
  PassedConnection connection;
  std::shared_ptr<const ServiceTable> table;
  std::unique_ptr<SinkMessage> sink;
  std::unique_ptr<ShardChange> change;
  std::int64_t deadline_ns = 0;
  std::uint64_t number = 0;
};
using ShardMailbox = Mailbox<ShardMessage>;

// One refused client, for the log. `suppressed`: how many more there were since the last record,
// which the shard's rate limit kept back.
struct RefusalRecord {
  Refusal refusal = Refusal::kUnknown;
  Endpoint source;
  std::uint8_t name_bytes = 0;
  std::array<char, 64> name{};  // what the client asked for, if it was a name; cut at 64 bytes
  std::uint64_t suppressed = 0;
};

struct StewardMessage {
  enum class Kind : std::uint8_t {
    kNone,
    kRefusal,       // refusal
    kAcceptFailed,  // number: errno
    kSink,          // sink
    kSinkNotice,    // number, detail, amount: as the sink means them
    kShardPaused,   // number: which shard accepts no more and has sent all its lanes
    kPassedOn,      // connection: for the successor
    kShardDone,     // a shard has done what kShutdown or kLeave asked for; number: of kReport, or 0
  };
  Kind kind = Kind::kNone;
  RefusalRecord refusal;
  std::unique_ptr<SinkMessage> sink;
  std::uint64_t number = 0;
  std::uint32_t detail = 0;
  std::uint32_t amount = 0;
  PassedConnection connection;
};
using StewardMailbox = Mailbox<StewardMessage>;

}  // namespace tcpmux
