// The shards' threads, started and joined. What the rest of the daemon sees of a shard is its
// mailbox and its counters; which engine it runs on is known here alone.
#pragma once

#include <pthread.h>
#include <sched.h>

#include <functional>
#include <future>
#include <memory>
#include <thread>
#include <vector>

#include "core/base/result.h"
#include "core/io/backend.h"
#include "core/server/messages.h"
#include "core/server/shard.h"
#include "core/server/shard_counters.h"

namespace tcpmux {

class ShardSet {
 public:
  explicit ShardSet(std::uint32_t count);
  // The threads have been told to stop, or do not serve yet.
  ~ShardSet();

  std::uint32_t size() const { return static_cast<std::uint32_t>(seats_.size()); }
  // False where a mailbox could not be made; then there is nothing that can be started.
  bool is_open() const;
  const std::vector<ShardMailbox*>& mailboxes() const { return mailboxes_; }
  const ShardCounters& counters(std::uint32_t shard) const { return seats_[shard]->counters; }

  // Starts one thread for each of `options` and waits until each has made its engine and its
  // slots. An error when one could not; then none serves, and none is left.
  template <IoBackend Io, HandoffSink Sink>
  Status prepare(std::vector<ShardOptions> options, const IoLimits& io_limits,
                 StewardMailbox& steward, std::shared_ptr<const ServiceTable> table,
                 const std::function<typename Sink::Options(std::uint32_t shard)>& sink_options);

  // They serve from now on; before, not one of them accepts.
  void serve() { decide(true); }

  // Sends to all; blocks while a mailbox is full, which a shard that runs soon changes.
  void send_all(const std::function<ShardMessage()>& make);
  void join();

 private:
  struct Seat {
    ShardMailbox mailbox{4096};
    ShardCounters counters;
    std::thread thread;
  };
  void decide(bool may_serve);
  static Status start_thread(std::thread& thread, std::move_only_function<void()> work);
  // One core for each shard, in turn, of those that we may run on.
  static void pin_this_thread(std::uint32_t shard);

  std::vector<std::unique_ptr<Seat>> seats_;
  std::vector<ShardMailbox*> mailboxes_;
  std::promise<bool> may_serve_;
  bool decided_ = false;
};

// How many cores we may run on.
std::uint32_t usable_cores();

template <IoBackend Io, HandoffSink Sink>
Status ShardSet::prepare(std::vector<ShardOptions> options, const IoLimits& io_limits,
                         StewardMailbox& steward, std::shared_ptr<const ServiceTable> table,
                         const std::function<typename Sink::Options(std::uint32_t)>& sink_options) {
  const std::shared_future<bool> may_serve = may_serve_.get_future().share();
  std::vector<std::future<Status>> ready;
  Status all;
  for (std::uint32_t i = 0; i < size(); ++i) {
    std::promise<Status> made;
    ready.push_back(made.get_future());
    auto work = [&, this, i, may_serve, table, io_limits, own = std::move(options[i]),
                 chosen = sink_options(i), made = std::move(made)]() mutable {
      pin_this_thread(i);
      Result<std::unique_ptr<Io>> io = Io::create(io_limits);
      if (!io) {
        made.set_value(std::unexpected(io.error()));
        return;
      }
      const ShardLinks links{.own = seats_[i]->mailbox, .all = mailboxes_, .steward = steward};
      auto shard = std::make_unique<Shard<Io, Sink>>(std::move(own), *std::move(io), links,
                                                     seats_[i]->counters, table, chosen);
      made.set_value({});
      if (may_serve.get()) shard->run();
    };
    all = start_thread(seats_[i]->thread, std::move(work));
    if (all) continue;
    ready.pop_back();
    break;
  }
  for (std::future<Status>& one : ready)
    if (Status status = one.get(); !status) all = status;
  if (all) return all;
  decide(false);
  join();
  return all;
}

}  // namespace tcpmux
