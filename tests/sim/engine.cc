// SimBackend, the part about connections: operations, and the turn of the loop. The other part is
// engine_calls.cc.
#include "tests/sim/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

namespace tcpmux::sim {
namespace {

constexpr int kAcceptsPerTurn = 16;
// More than any script needs: a shard that looks at one client for ever spins.
constexpr std::uint32_t kOperationsMax = 20'000;
constexpr std::int64_t kLate_ns = 5 * kNanosPerMilli;

}  // namespace

SimBackend::SimBackend(Parts parts, std::uint32_t shard, std::uint32_t listener)
    : context_(parts.context),
      kernel_(parts.kernel),
      clients_(parts.clients),
      ledger_(parts.ledger),
      shard_(shard),
      listener_(listener),
      lazy_(context_.dials[Dial::kLazyEngine] != 0) {
  acquire_reserve();
}

// Cancels what is in flight, and closes connections that nobody will hear of.
SimBackend::~SimBackend() {
  clients_.for_each([this](std::uint32_t, Client& client) {
    if (client.watcher != this) return;
    client.operation = {};
    client.watcher = nullptr;
  });
  for (const Result& result : results_)
    if (result.completion.tag.operation == Operation::kAccept && result.completion.result >= 0)
      kernel_.close(result.completion.result);
  if (reserve_ >= 0) kernel_.close(reserve_);
}

// --- starting ---

void SimBackend::start(int fd, PendingOperation operation) {
  const Outside outside;
  ++calls_;
  Client& client = kernel_.client_of(fd);
  if (client.operation.kind != Kind::kNone)
    broken(0, fmt::format("client {}: two operations in flight", client.serial));
  if (++client.operations > kOperationsMax)
    broken(6,
           fmt::format("client {}: {} operations on its socket", client.serial, client.operations));
  client.operation = operation;
  client.watcher = this;
  const std::uint32_t place = kernel_.file(fd).index;
  if (lazy_) return changed(place);
  look_at(place);
}

void SimBackend::peek(Tag tag, int fd, std::span<char> buffer) {
  start(fd, {.kind = Kind::kPeek, .tag = tag, .into = buffer});
}

void SimBackend::discard(Tag tag, int fd, std::size_t count) {
  start(fd, {.kind = Kind::kDiscard, .tag = tag, .to_take = count});
}

void SimBackend::reply(Tag tag, int fd, std::size_t count, std::span<const char> bytes, bool) {
  const Outside outside;
  Client& client = kernel_.client_of(fd);
  ledger_.tells(client, bytes);
  if (client.answer == Told::kPlus) {
    check_place(client);
    ++plus_in_flight_[client.service];
    client.promised_in = picture_;
  }
  start(fd, {.kind = Kind::kReply, .tag = tag, .to_take = count, .bytes = bytes});
}

void SimBackend::drain(Tag tag, int fd) {
  start(fd, {.kind = Kind::kDrain, .tag = tag});
}

void SimBackend::accept(Tag tag, int fd) {
  const Outside outside;
  const File& file = kernel_.file_of(fd, File::Kind::kListener);
  if (accepting_ || file.index != listener_) broken(0, "a second accept on a listener");
  ++calls_;
  accept_tag_ = tag;
  accepting_ = true;
}

void SimBackend::watch_wakeups(Tag tag, int) {
  wakeup_tag_ = tag;
}

// The operation may have been faster; then its result stands.
void SimBackend::cancel(Tag tag, int fd) {
  const Outside outside;
  ++calls_;
  if (tag.operation == Operation::kAccept) {
    if (!accepting_) return;
    const int last = context_.fault(Dial::kCancelTooLate) ? take_from_backlog() : -1;
    return end_accept(last >= 0 ? last : -ECANCELED);
  }
  Client& client = kernel_.client_of(fd);
  PendingOperation& operation = client.operation;
  if (operation.kind == Kind::kNone || operation.tag.pack() != tag.pack() || operation.has_result)
    return;
  const std::uint32_t place = kernel_.file(fd).index;
  if (context_.fault(Dial::kCancelTooLate)) look_at(place);
  if (operation.has_result) return;
  context_.note(What::kCancelled, client.serial);
  complete(place, {.tag = operation.tag, .result = -ECANCELED});
}

// --- trying ---

void SimBackend::changed(std::uint32_t place) {
  if (place == kNoClient) return;  // the listener is looked at in every turn
  PendingOperation& operation = clients_[place].operation;
  if (operation.kind == Kind::kNone || operation.has_result || operation.is_queued) return;
  const Outside outside;
  operation.is_queued = true;
  changed_.push_back(place);
}

void SimBackend::look_at(std::uint32_t place) {
  Client& client = clients_[place];
  // The place may be another client's by now.
  if (client.watcher != this || client.operation.kind == Kind::kNone) return;
  client.operation.is_queued = false;
  if (client.operation.has_result) return;
  std::int32_t result = 0;
  if (!attempt(client, result)) return;
  if (result < 0) context_.note(What::kOperationFails, client.serial, result);
  complete(place, {.tag = client.operation.tag, .result = result});
}

void SimBackend::complete(std::uint32_t place, const Completion& completion) {
  if (place != kNoClient) clients_[place].operation.has_result = true;
  std::int64_t due_ns =
      context_.now_ns + (context_.fault(Dial::kLate) ? context_.random.skewed(kLate_ns) : 0);
  // What comes of one accept comes in order.
  if (place == kNoClient) due_ns = last_accept_due_ns_ = std::max(due_ns, last_accept_due_ns_);
  results_.push_back({due_ns, place, completion});
}

bool SimBackend::attempt(Client& client, std::int32_t& result) {
  switch (client.operation.kind) {
    case Kind::kPeek:
      return attempt_peek(client, result);
    case Kind::kDiscard: {
      const auto wanted = static_cast<std::int32_t>(client.operation.to_take);
      if (!attempt_take(client, result)) return false;
      if (result == 0) result = wanted;
      return true;
    }
    case Kind::kReply:
      return attempt_reply(client, result);
    case Kind::kDrain:
      return attempt_drain(client, result);
    case Kind::kNone:
      break;
  }
  return false;
}

// What recv says where nothing is left: the reset once, then the end.
std::int32_t SimBackend::end_of(Client& client) {
  if (!client.reset || std::exchange(client.reset_was_told, true)) return 0;
  return -ECONNRESET;
}

bool SimBackend::attempt_peek(Client& client, std::int32_t& result) {
  const std::size_t count = std::min<std::size_t>(client.waiting(), client.operation.into.size());
  if (count == 0) {
    if (!client.is_gone()) return false;
    result = end_of(client);
    return true;
  }
  std::copy_n(client.stream.data() + client.consumed, count, client.operation.into.data());
  result = static_cast<std::int32_t>(count);
  context_.note(What::kPeeks, client.serial, result);
  return true;
}

// True with result 0 when all of `to_take` is out of the socket, or with why it cannot be.
bool SimBackend::attempt_take(Client& client, std::int32_t& result) {
  std::size_t& to_take = client.operation.to_take;
  const auto count = static_cast<std::uint32_t>(std::min<std::size_t>(client.waiting(), to_take));
  client.consumed += count;
  to_take -= count;
  if (count > 0) context_.note(What::kDiscards, client.serial, count);
  if (client.asks == Asks::kService && client.consumed > client.line_bytes)
    broken(3, fmt::format("client {}: {} bytes are consumed, and the line has {}", client.serial,
                          client.consumed, client.line_bytes));
  result = 0;
  if (to_take == 0) return true;
  if (!client.is_gone()) return false;
  result = client.reset ? -ECONNRESET : -ENODATA;
  client.reset_was_told = client.reset;
  return true;
}

// The steps are not linked: what cannot be taken may still have been answered.
bool SimBackend::attempt_reply(Client& client, std::int32_t& result) {
  PendingOperation& operation = client.operation;
  if (!operation.refused_once && context_.fault(Dial::kSendWaits)) {
    operation.refused_once = true;
    context_.schedule(context_.random.skewed(20 * kNanosPerMilli), Happening::Kind::kClientUnblocks,
                      clients_.place_of(client), client.generation);
    return false;
  }
  if (!attempt_take(client, result)) return false;
  if (result < 0) {
    if (context_.random.below(2) == 0) put(client, operation.bytes);
    return true;
  }
  result = put(client, operation.bytes);
  if (result == -EAGAIN) return false;
  if (result > 0) clients_.was_told(clients_.place_of(client));
  return true;
}

std::int32_t SimBackend::put(Client& client, std::span<const char> bytes) {
  if (client.write_is_shut) broken(2, fmt::format("client {}: told after all", client.serial));
  if (client.reset) {
    if (std::exchange(client.reset_was_told, true)) return -EPIPE;
    return -ECONNRESET;
  }
  const std::size_t used = client.told.size() - client.was_read;
  std::size_t count = bytes.size();
  count = std::min<std::size_t>(count,
                                client.send_room - std::min<std::size_t>(used, client.send_room));
  if (count == 0) return -EAGAIN;
  if (count > 1 && context_.fault(Dial::kShortSend))
    count = 1 + context_.random.below(static_cast<std::uint32_t>(count - 1));
  client.told.append(bytes.data(), count);
  context_.note(What::kReplies, client.serial, static_cast<std::int64_t>(count));
  return static_cast<std::int32_t>(count);
}

bool SimBackend::attempt_drain(Client& client, std::int32_t& result) {
  const std::uint32_t count = client.waiting();
  if (count == 0 && !client.is_gone()) return false;
  client.consumed += count;
  result = count > 0 ? static_cast<std::int32_t>(count) : end_of(client);
  context_.note(What::kDrains, client.serial, result);
  return true;
}

// --- accepting ---

// A descriptor of the client that waited longest; -1 without one, or without a client.
int SimBackend::take_from_backlog() {
  std::vector<std::uint32_t>& backlog = kernel_.listener(listener_).backlog;
  if (backlog.empty()) return -1;
  const std::uint32_t client = backlog.front();
  const int fd = kernel_.open({.kind = File::Kind::kClient, .index = client});
  if (fd < 0) return -1;
  backlog.erase(backlog.begin());
  clients_.let_go(client);
  return fd;
}

void SimBackend::end_accept(std::int32_t result) {
  accepting_ = false;
  context_.note(What::kAcceptEnds, shard_, result);
  complete(kNoClient, {.tag = accept_tag_, .result = result});
}

void SimBackend::accept_waiting() {
  std::vector<std::uint32_t>& backlog = kernel_.listener(listener_).backlog;
  for (int i = 0; i < kAcceptsPerTurn && accepting_ && !backlog.empty(); ++i) {
    if (context_.fault(Dial::kAcceptMfile)) return end_accept(-EMFILE);
    if (context_.fault(Dial::kAcceptNfile)) return end_accept(-ENFILE);
    if (context_.fault(Dial::kAcceptNoBufs)) return end_accept(-ENOBUFS);
    if (context_.fault(Dial::kAcceptAborted)) {
      clients_.let_go(backlog.front());
      backlog.erase(backlog.begin());
      continue;
    }
    const int fd = take_from_backlog();
    if (fd < 0) return end_accept(-EMFILE);
    if (context_.fault(Dial::kFullQueue)) return end_accept(fd);
    complete(kNoClient, {.tag = accept_tag_, .result = fd, .more = true});
  }
}

// --- the turn ---

void SimBackend::begin_turn() {
  waited_ = false;
  turned_at_ns_ = context_.now_ns;
  reaped_ = 0;
  calls_ = 0;
}

std::int64_t SimBackend::next_turn_ns() const {
  const bool clients_wait = accepting_ && !kernel_.listener(listener_).backlog.empty();
  if (!sleeps() || wakeup_ || !changed_.empty() || clients_wait) return context_.now_ns;
  std::int64_t next_ns = deadline_ns_;
  for (const Result& result : results_)
    next_ns = std::min(next_ns, result.due_ns);
  return next_ns;
}

void SimBackend::note_accepted(int fd) {
  kernel_.give_to(fd, shard_);
  Client& client = clients_[kernel_.file(fd).index];
  client.accepted_ns = client.decided_ns = context_.now_ns;
  ++ledger_.current().accepted;
  context_.note(What::kAccepted, client.serial, fd);
}

// What a completion means to the books, at the moment when the shard hears of it.
void SimBackend::hand_out(const Result& result, Completion& completion) {
  completion = result.completion;
  if (completion.tag.operation == Operation::kAccept) {
    if (completion.result < 0) return;
    return note_accepted(completion.result);
  }
  Client& client = clients_[result.client];
  if (client.operation.kind == Kind::kReply && client.answer == Told::kPlus) {
    if (client.promised_in == picture_) --plus_in_flight_[client.service];
    const auto bytes = static_cast<std::int32_t>(client.operation.bytes.size());
    client.answered_whole = completion.result == bytes;
    client.answer_failed = !client.answered_whole;
  }
  client.operation = {};
}

std::size_t SimBackend::reap(std::span<Completion> completions) {
  const Outside outside;
  for (std::size_t i = 0; i < changed_.size(); ++i)
    look_at(changed_[i]);
  changed_.clear();
  accept_waiting();
  std::size_t most = completions.size();
  if (context_.fault(Dial::kReorder)) most = 1 + context_.random.below(6);
  std::size_t count = 0;
  if (std::exchange(wakeup_, false)) {
    completions[count++] = {.tag = wakeup_tag_, .result = 1, .more = true};
  }
  const auto is_accept = [](const Result& one) { return one.client == kNoClient; };
  if (results_.size() > 1 && context_.fault(Dial::kReorder)) {
    const auto size = static_cast<std::uint32_t>(results_.size());
    Result& one = results_[context_.random.below(size)];
    Result& other = results_[context_.random.below(size)];
    if (!is_accept(one) && !is_accept(other)) std::swap(one, other);
  }
  std::size_t kept = 0;
  bool accepts_wait = false;
  for (std::size_t i = 0; i < results_.size(); ++i) {
    const bool held = (is_accept(results_[i]) && accepts_wait) ||
                      results_[i].due_ns > context_.now_ns || count >= most;
    if (held) {
      accepts_wait |= is_accept(results_[i]);
      results_[kept++] = results_[i];
    } else {
      hand_out(results_[i], completions[count++]);
    }
  }
  results_.resize(kept);
  reaped_ += count;
  return count;
}

// Nothing is waited for here: a shard whose wait() gives nothing, as after a signal, has its next
// turn when the world says so.
std::size_t SimBackend::wait(std::span<Completion> completions, std::int64_t deadline_ns) {
  const std::size_t count = reap(completions);
  waited_ = count == 0;
  deadline_ns_ = deadline_ns;
  return count;
}

}  // namespace tcpmux::sim
