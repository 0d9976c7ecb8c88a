// The ways of messages between threads. What a shard sends lies in a mailbox in transit until the
// world moves it into its receiver's own, later and in an order of the world's choice.
//
// One order is kept: all that one shard sends arrives in the order in which it was sent, to
// whomever it goes. Production's mailboxes are filled at once, so whoever acts on a message can be
// sure that what its sender sent before is there; an order that breaks this cannot happen. What the
// steward sends may overtake itself only between different receivers: a full mailbox holds back its
// own. The registry has mailboxes of its own to write into, which are as full as the shard's behind
// them.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "core/server/messages.h"
#include "tests/sim/context.h"
#include "tests/sim/kernel.h"
#include "tests/sim/ledger.h"

namespace tcpmux::sim {

class Mail {
 public:
  // The shards of one process; `first` is the number of the first of them in the world.
  Mail(Context& context, Kernel& kernel, Ledger& ledger, std::uint32_t shards, std::uint32_t first);

  ShardMailbox& own(std::uint32_t shard) { return *own_[shard]; }
  // What shard `from` sees as the mailboxes of all.
  const std::vector<ShardMailbox*>& seen_by(std::uint32_t from) const { return seen_[from]; }

  // What the registry sees as the mailboxes of all.
  const std::vector<ShardMailbox*>& seen_by_registry() const { return seen_by_registry_; }

  // From the steward's thread, behind all that the registry has sent.
  void post(std::uint32_t to, ShardMessage message);
  // Shard `from` has had a turn: what it sent is on its way.
  void collect(std::uint32_t from);
  // The registry has had a turn.
  void collect_from_registry();
  // The highest version of routes that it has sent.
  std::uint64_t routes_version() const { return routes_version_; }
  // Happening::kMail.
  void deliver(std::uint32_t channel);
  // All that shards have sent is in its receivers' mailboxes, where these have room; false: not
  // all.
  bool deliver_all_of_shards();
  // The same of what the steward has sent, as far as mailboxes have room.
  void deliver_all_of_steward();
  // And nothing is left on its way.
  bool steward_has_said_all() const;
  // Connections that lie in the shard's own mailbox, which it empties in the turn of its wakeup.
  std::vector<int>& connections_in(std::uint32_t shard) { return connections_[shard]; }
  // The process has ended, and nothing is sent any more.
  void end();
  // Who has been woken since this was asked last.
  std::uint32_t take_woken() { return std::exchange(woken_, 0); }

 private:
  struct Letter {
    std::uint32_t to = 0;
    ShardMessage message;
  };
  struct Channel {
    std::deque<Letter> letters;
    bool scheduled = false;
  };
  bool deliver_first(Channel& channel);
  void collect_from_registry(std::uint32_t to, std::size_t most);
  void look_into(const ShardMessage& message, std::uint32_t to);
  void schedule(std::uint32_t channel);

  Context& context_;
  Kernel& kernel_;
  Ledger& ledger_;
  std::uint32_t shards_;
  std::uint32_t first_;
  std::size_t capacity_;  // of a mailbox
  std::vector<std::unique_ptr<ShardMailbox>> own_;
  std::vector<std::unique_ptr<ShardMailbox>> in_transit_;  // from * shards_ + to
  std::vector<std::vector<ShardMailbox*>> seen_;
  std::vector<std::unique_ptr<ShardMailbox>> from_registry_;
  std::vector<ShardMailbox*> seen_by_registry_;
  std::uint64_t routes_version_ = 0;
  std::vector<Channel> channels_;  // one for each shard that sends, one for each that the steward
                                   // sends to
  std::vector<std::vector<int>> connections_;
  std::uint32_t woken_ = 0;  // bit n: shard n
};

}  // namespace tcpmux::sim
