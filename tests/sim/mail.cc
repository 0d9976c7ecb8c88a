#include "tests/sim/mail.h"

#include <algorithm>
#include <limits>

#include "handoff/lane.h"

namespace tcpmux::sim {
namespace {

constexpr std::int64_t kSlow_ns = 20 * kNanosPerMilli;
constexpr std::int64_t kFullAgain_ns = 200 * kMicro_ns;

}  // namespace

Mail::Mail(Context& context, Kernel& kernel, Ledger& ledger, std::uint32_t shards,
           std::uint32_t first)
    : context_(context),
      kernel_(kernel),
      ledger_(ledger),
      shards_(shards),
      first_(first),
      capacity_(static_cast<std::size_t>(context.dials[Dial::kMailbox])),
      seen_(shards),
      channels_(2 * shards),
      connections_(shards) {
  for (std::uint32_t i = 0; i < shards; ++i) {
    own_.push_back(std::make_unique<ShardMailbox>(capacity_));
    from_registry_.push_back(std::make_unique<ShardMailbox>(capacity_));
    seen_by_registry_.push_back(from_registry_.back().get());
  }
  for (std::uint32_t from = 0; from < shards; ++from) {
    for (std::uint32_t to = 0; to < shards; ++to) {
      in_transit_.push_back(std::make_unique<ShardMailbox>(capacity_));
      seen_[from].push_back(in_transit_.back().get());
    }
  }
}

void Mail::schedule(std::uint32_t number) {
  Channel& channel = channels_[number];
  if (channel.letters.empty() || std::exchange(channel.scheduled, true)) return;
  const bool slow = context_.fault(Dial::kSlowMail);
  context_.schedule(context_.random.skewed(slow ? kSlow_ns : 5 * kMicro_ns), Happening::Kind::kMail,
                    first_, number);
}

void Mail::post(std::uint32_t to, ShardMessage message) {
  if (channels_.empty()) return;
  collect_from_registry(to, std::numeric_limits<std::size_t>::max());
  channels_[shards_ + to].letters.push_back({to, std::move(message)});
  schedule(shards_ + to);
}

void Mail::collect(std::uint32_t from) {
  for (std::uint32_t to = 0; to < shards_; ++to) {
    Letter letter{.to = to, .message = {}};
    while (in_transit_[from * shards_ + to]->receive(letter.message)) {
      const int fd = letter.message.connection.socket.get();
      const Client& client = kernel_.client_of(fd);
      context_.note(What::kPasses, client.serial, to);
      kernel_.give_to(fd, kNobody);
      ++ledger_.of(first_ + from).passed;
      channels_[from].letters.push_back(std::move(letter));
      letter = {.to = to, .message = {}};
    }
  }
  schedule(from);
}

void Mail::collect_from_registry() {
  for (std::uint32_t to = 0; to < shards_; ++to)
    collect_from_registry(to, capacity_);
}

// As long as fewer than `most` letters are on their way.
void Mail::collect_from_registry(std::uint32_t to, std::size_t most) {
  std::deque<Letter>& letters = channels_[shards_ + to].letters;
  ShardMessage message;
  while (letters.size() < most && from_registry_[to]->receive(message)) {
    look_into(message, to);
    letters.push_back({to, std::exchange(message, {})});
  }
  schedule(shards_ + to);
}

// Which shard a lane belongs to, and what it serves, is what the registry says.
void Mail::look_into(const ShardMessage& message, std::uint32_t to) {
  if (message.kind != ShardMessage::Kind::kSink) return;
  const auto& said = static_cast<const handoff::RouterMessage&>(*message.sink);
  if (said.kind == handoff::RouterMessage::Kind::kRoutes)
    routes_version_ = static_cast<const handoff::RoutesCommand&>(said).version;
  if (said.kind != handoff::RouterMessage::Kind::kLane) return;
  const auto& lane = static_cast<const handoff::Lane&>(said);
  SimLane& simulated =
      kernel_.lane(kernel_.file_of(lane.setup.ours.get(), File::Kind::kLaneOurs).index);
  simulated.shard = first_ + to;
  simulated.services = 0;
  // Others than the first are asked for by no client.
  for (const ServiceId service : lane.setup.services)
    if (service < context_.dials[Dial::kServices]) simulated.services |= 1U << service;
}

bool Mail::deliver_first(Channel& channel) {
  Letter& letter = channel.letters.front();
  const std::uint32_t to = letter.to;
  const int fd = letter.message.connection.socket.get();
  if (!own_[to]->send(std::move(letter.message))) {
    context_.note(What::kMailFull, 0);
    return false;
  }
  if (fd >= 0) connections_[to].push_back(fd);
  context_.note(What::kMail, 0);
  channel.letters.pop_front();
  woken_ |= 1U << to;
  return true;
}

void Mail::deliver(std::uint32_t number) {
  Channel& channel = channels_[number];
  channel.scheduled = false;
  if (channel.letters.empty()) return;
  if (!deliver_first(channel)) {
    channel.scheduled = true;
    return context_.schedule(kFullAgain_ns, Happening::Kind::kMail, first_, number);
  }
  if (number >= shards_) collect_from_registry(number - shards_, capacity_);
  schedule(number);
}

void Mail::end() {
  channels_.clear();
  own_.clear();
  in_transit_.clear();
  from_registry_.clear();
}

void Mail::deliver_all_of_steward() {
  for (std::uint32_t to = 0; to < shards_; ++to) {
    collect_from_registry(to, std::numeric_limits<std::size_t>::max());
    while (!channels_[shards_ + to].letters.empty())
      if (!deliver_first(channels_[shards_ + to])) break;
  }
}

bool Mail::steward_has_said_all() const {
  return std::all_of(channels_.begin() + shards_, channels_.end(),
                     [](const Channel& one) { return one.letters.empty(); });
}

bool Mail::deliver_all_of_shards() {
  for (std::uint32_t from = 0; from < shards_; ++from)
    while (!channels_[from].letters.empty())
      if (!deliver_first(channels_[from])) return false;
  return true;
}

}  // namespace tcpmux::sim
