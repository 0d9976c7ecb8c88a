#include "core/server/log_sink.h"

#include <fmt/core.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <new>

namespace tcpmux {
namespace {

constexpr std::size_t kLineBytes = 8192;
// How soon the end is noticed by one that waits.
constexpr int kLook_ms = 100;

}  // namespace

LogSink::LogSink(int fd, spdlog::details::thread_pool& queue) : fd_(fd), queue_(queue) {
  text_.reserve(kLineBytes);
}

void LogSink::sink_it_(const spdlog::details::log_msg& message) {
  try {
    if (say_what_is_lost(message) && write(message)) return;
  } catch (const std::bad_alloc&) {  // a very long line, and no memory for it
  }
  ++unwritten_;
}

// False where that cannot be written either.
bool LogSink::say_what_is_lost(const spdlog::details::log_msg& message) {
  const std::size_t overrun = queue_.overrun_counter();
  const std::size_t lost = unwritten_ + overrun - overrun_said_;
  if (lost == 0) return true;
  std::array<char, 128> words;
  const auto end =
      fmt::format_to_n(words.begin(), words.size(),
                       "{} lines of the log were lost: they could not be written", lost)
          .out;
  spdlog::details::log_msg line = message;
  line.level = spdlog::level::warn;
  line.payload = {words.data(), static_cast<std::size_t>(end - words.begin())};
  if (!write(line)) return false;
  unwritten_ = 0;
  overrun_said_ = overrun;
  return true;
}

bool LogSink::write(const spdlog::details::log_msg& message) {
  text_.clear();
  formatter_->format(message, text_);
  return write(std::string_view(text_.data(), text_.size()));
}

// In parts that a pipe takes without waiting when it says that it has room.
bool LogSink::write(std::string_view text) {
  while (!text.empty()) {
    if (!wait_for_room()) return false;
    const ssize_t written = ::write(fd_, text.data(), std::min<std::size_t>(text.size(), PIPE_BUF));
    if (written < 0 && errno != EINTR && errno != EAGAIN) return false;
    text.remove_prefix(static_cast<std::size_t>(std::max<ssize_t>(written, 0)));
  }
  return true;
}

bool LogSink::wait_for_room() const {
  for (;;) {
    pollfd room{.fd = fd_, .events = POLLOUT, .revents = 0};
    const bool late = monotonic_ns() >= give_up_at_ns_;
    if (::poll(&room, 1, late ? 0 : kLook_ms) > 0) return true;
    if (late) return false;
  }
}

}  // namespace tcpmux
