#include "handoff/lane.h"

#include "core/base/check.h"

namespace tcpmux::handoff {

Lane::Lane(Setup made)
    : RouterMessage(Kind::kLane),
      setup(std::move(made)),
      next_for(setup.services.size(), kNoLane),
      sent_(std::make_unique<Message[]>(setup.window + 1)),
      capacity_(setup.window + 1) {}

void Lane::sent(std::uint32_t bytes, std::uint32_t sockets, std::int64_t now_ns) {
  TCPMUX_CHECK(messages_ < capacity_, "no more messages than the window has places");
  if (messages_ == 0) moved_at_ns_ = now_ns;
  sent_[(first_message_ + messages_) % capacity_] = {.bytes = bytes, .sockets = sockets};
  ++messages_;
  queued_ += sockets;
  queued_bytes_ += bytes;
}

bool Lane::settle(std::uint32_t waiting_bytes, std::int64_t now_ns) {
  settled_at_ns_ = now_ns;
  const std::uint32_t before = messages_;
  // More may wait than we have counted: a message whose completion has not been seen yet.
  while (messages_ > 0 && queued_bytes_ > waiting_bytes) {
    const Message& received = sent_[first_message_];
    first_message_ = (first_message_ + 1) % capacity_;
    --messages_;
    queued_ -= received.sockets;
    queued_bytes_ -= received.bytes;
    moved_at_ns_ = now_ns;
  }
  return messages_ != before;
}

void Lane::emptied() {
  messages_ = queued_ = queued_bytes_ = 0;
}

std::vector<Lane::Message> Lane::waiting() const {
  std::vector<Message> messages;
  for (std::uint32_t i = 0; i < messages_; ++i)
    messages.push_back(sent_[(first_message_ + i) % capacity_]);
  return messages;
}

void Lane::restore(const std::vector<Message>& messages, std::int64_t moved_at_ns) {
  for (const Message& message : messages)
    sent(message.bytes, message.sockets, moved_at_ns);
}

}  // namespace tcpmux::handoff
