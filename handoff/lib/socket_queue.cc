#include "handoff/lib/socket_queue.h"

#include <sys/ioctl.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "core/base/check.h"

namespace tcpmux::handoff {
namespace {

socklen_t copy_address(const Endpoint& from, sockaddr_storage& to) {
  to = {};
  if (from.address.family == IpAddress::Family::kNone) return sizeof(sa_family_t);  // AF_UNSPEC
  return to_sockaddr(from, to);
}

}  // namespace

Status SocketQueue::fill(std::span<const std::byte> message, std::span<OwnFd> sockets,
                         bool some_were_lost) {
  TCPMUX_CHECK(empty(), "a message is received only when the last one was given out");
  const std::optional<Header> header = decode_header(message);
  if (!header || header->count == 0 || header->count > kSocketsPerMessageMax)
    return fail("a Handoff of no sockets, or of more than 64");
  if (sockets.size() > header->count || (sockets.size() < header->count && !some_were_lost))
    return fail("a Handoff of " + std::to_string(header->count) + " sockets came with " +
                std::to_string(sockets.size()));
  HandoffDecoder decoder(message);
  for (std::size_t i = 0; i < sockets.size(); ++i) {
    const Result<Facts> facts = decoder.next();
    if (!facts) return fail(facts.error().message);
    Entry& entry = entries_[i];
    if (facts->service.size() >= entry.service.size()) return fail("a service's name is too long");
    entry.facts.client_bytes = copy_address(facts->source, entry.facts.client);
    entry.facts.destination_bytes = copy_address(facts->destination, entry.facts.destination);
    std::memcpy(entry.facts.id, facts->id.data(), facts->id.size());
    entry.facts.accepted_ns = facts->accepted_ns;
    *std::copy(facts->service.begin(), facts->service.end(), entry.service.begin()) = '\0';
    entry.facts.service = entry.service.data();
  }
  for (std::size_t i = 0; i < sockets.size(); ++i)
    entries_[i].socket = std::move(sockets[i]);
  next_ = 0;
  count_ = sockets.size();
  return {};
}

void SocketQueue::make_nonblocking() {
  int on = 1;
  for (std::size_t i = next_; i < count_; ++i)
    ::ioctl(entries_[i].socket.get(), FIONBIO, &on);
}

int SocketQueue::take(const tcpmux_facts*& facts) {
  TCPMUX_CHECK(!empty(), "nobody waits in the queue");
  Entry& entry = entries_[next_++];
  facts = &entry.facts;
  return entry.socket.release();
}

void SocketQueue::clear() {
  while (!empty())
    entries_[next_++].socket.reset();
}

}  // namespace tcpmux::handoff
