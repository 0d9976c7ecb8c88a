#include "core/server/shard_set.h"

#include <algorithm>
#include <string>
#include <system_error>
#include <utility>

namespace tcpmux {

ShardSet::ShardSet(std::uint32_t count) {
  for (std::uint32_t i = 0; i < count; ++i) {
    seats_.push_back(std::make_unique<Seat>());
    mailboxes_.push_back(&seats_.back()->mailbox);
  }
}

ShardSet::~ShardSet() {
  decide(false);
  join();
}

void ShardSet::decide(bool may_serve) {
  if (!std::exchange(decided_, true)) may_serve_.set_value(may_serve);
}

bool ShardSet::is_open() const {
  return std::all_of(mailboxes_.begin(), mailboxes_.end(),
                     [](const ShardMailbox* mailbox) { return mailbox->is_open(); });
}

// An exception is the only way in which std::thread says that there is none to be had.
Status ShardSet::start_thread(std::thread& thread, std::move_only_function<void()> work) {
  try {
    thread = std::thread(std::move(work));
    return {};
  } catch (const std::system_error& error) {
    return fail("a shard's thread cannot be started: " + error.code().message() +
                    "; raise the limits of memory and of processes (ulimit -v, ulimit -u, "
                    "TasksMax=), or have fewer shards",
                error.code().value());
  }
}

void ShardSet::send_all(const std::function<ShardMessage()>& make) {
  for (ShardMailbox* mailbox : mailboxes_) {
    ShardMessage message = make();
    while (!mailbox->send(std::move(message)))
      std::this_thread::yield();
  }
}

void ShardSet::join() {
  for (const auto& seat : seats_)
    if (seat->thread.joinable()) seat->thread.join();
}

void ShardSet::pin_this_thread(std::uint32_t shard) {
  const std::string name = "shard-" + std::to_string(shard);
  // A name and a core are a convenience; without them the shard runs all the same.
  ::pthread_setname_np(::pthread_self(), name.c_str());
  cpu_set_t allowed;
  if (::sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  std::uint32_t wanted = shard % static_cast<std::uint32_t>(CPU_COUNT(&allowed));
  for (std::size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || wanted-- > 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    ::pthread_setaffinity_np(::pthread_self(), sizeof one, &one);
    return;
  }
}

std::uint32_t usable_cores() {
  cpu_set_t allowed;
  if (::sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
  return static_cast<std::uint32_t>(CPU_COUNT(&allowed));
}

}  // namespace tcpmux
