// Where the log's lines go: standard error, by the log's own thread. A line that cannot be written
// (a full disk, a pipe whose reader has gone) is lost, and so is one that finds the queue full; how
// many they were is said in front of the next line that can be written.
//
// A pipe that nobody reads is waited for, because nobody else waits for us; but not at the end.
#pragma once

#include <spdlog/async.h>
#include <spdlog/sinks/base_sink.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string_view>

#include "core/base/clock.h"

namespace tcpmux {

class LogSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  // `queue` is the one whose thread writes here; it outlives the thread.
  LogSink(int fd, spdlog::details::thread_pool& queue);

  // What is in the queue has a second to be written. From any thread.
  void end() { give_up_at_ns_ = monotonic_ns() + kNanosPerSecond; }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override;
  void flush_() override {}

 private:
  bool write(const spdlog::details::log_msg& message);
  bool say_what_is_lost(const spdlog::details::log_msg& message);
  bool write(std::string_view text);
  bool wait_for_room() const;

  int fd_;
  spdlog::details::thread_pool& queue_;
  spdlog::memory_buf_t text_;  // has room for all but the longest lines, so that none is allocated
  std::atomic<std::int64_t> give_up_at_ns_ = kNever_ns;
  std::size_t unwritten_ = 0;
  std::size_t overrun_said_ = 0;
};

}  // namespace tcpmux
