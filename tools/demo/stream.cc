#include "tools/demo/stream.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <utility>

namespace demo {
namespace {

// How long a client may take to close after we have.
constexpr std::chrono::seconds kLinger{2};

bool would_block() {
  return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

}  // namespace

std::shared_ptr<Stream> Stream::make(EventLoop& loop, tcpmux::Client client, Handlers handlers) {
  std::shared_ptr<Stream> stream(new Stream(loop, std::move(client), std::move(handlers)));
  // The loop does not keep it alive; handle() does while it runs.
  loop.watch(stream->client_.socket(), EPOLLIN,
             [raw = stream.get()](std::uint32_t events) { raw->handle(events); });
  return stream;
}

Stream::Stream(EventLoop& loop, tcpmux::Client client, Handlers handlers)
    : loop_(loop), client_(std::move(client)), handlers_(std::move(handlers)) {
  // Or else the end of a long answer waits for the client's delayed ACK, some 40 ms.
  const int on = 1;
  ::setsockopt(client_.socket(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

Stream::~Stream() {
  loop_.forget(client_.socket());
}

bool Stream::send(std::string_view bytes) {
  if (ended_ || finishing_) return true;
  if (output_.empty()) {
    const ssize_t sent = ::send(client_.socket(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && !would_block()) return true;  // gone: the loop is about to tell us
    if (sent > 0) bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
  if (output_.size() + bytes.size() > kOutputBytesMax) return false;
  output_ += bytes;
  update_events();
  return true;
}

void Stream::pause(bool paused) {
  if (std::exchange(paused_, paused) != paused) update_events();
}

void Stream::finish() {
  if (std::exchange(finishing_, true)) return;
  if (output_.empty()) half_close();
  update_events();
}

void Stream::handle(std::uint32_t events) {
  const std::shared_ptr<Stream> keep = shared_from_this();
  if ((events & (EPOLLERR | EPOLLHUP)) != 0) return handlers_.on_end();
  if ((events & EPOLLOUT) != 0) write_some();
  if ((events & EPOLLIN) != 0 && !ended_) read_some();
  if (ended_ && output_.empty()) handlers_.on_end();
}

void Stream::read_some() {
  std::array<char, kInputBytesMax> bytes;
  const ssize_t got = ::recv(client_.socket(), bytes.data(), bytes.size(), 0);
  if (got < 0 && would_block()) return;
  if (got > 0) {
    if (!finishing_) handlers_.on_input({bytes.data(), static_cast<std::size_t>(got)});
    return;
  }
  ended_ = true;
  if (got < 0) output_.clear();
  update_events();
}

void Stream::write_some() {
  const ssize_t sent = ::send(client_.socket(), output_.data(), output_.size(), MSG_NOSIGNAL);
  if (sent < 0) {
    if (would_block()) return;
    ended_ = true;
    output_.clear();
    return;
  }
  output_.erase(0, static_cast<std::size_t>(sent));
  if (!output_.empty()) return;
  update_events();
  if (finishing_) {
    half_close();
  } else {
    handlers_.on_all_sent();
  }
}

// To close a socket with unread input would destroy what the client has not read yet: so we say
// that we are done, and give the client a moment to be done too.
void Stream::half_close() {
  half_closed_ = true;
  ::shutdown(client_.socket(), SHUT_WR);
  loop_.after(kLinger, [weak = weak_from_this()] {
    if (const std::shared_ptr<Stream> stream = weak.lock()) stream->handlers_.on_end();
  });
}

void Stream::update_events() {
  const bool reads = !ended_ && (half_closed_ || !paused_);
  loop_.change(client_.socket(), (reads ? std::uint32_t{EPOLLIN} : 0) |
                                     (output_.empty() ? 0 : std::uint32_t{EPOLLOUT}));
}

}  // namespace demo
