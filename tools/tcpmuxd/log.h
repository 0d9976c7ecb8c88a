// The daemon's log: lines on standard error, written by a thread of spdlog's.
#pragma once

#include <memory>

#include "core/base/result.h"
#include "core/server/config.h"
#include "core/server/log_sink.h"

namespace tcpmux {

class Logging {
 public:
  static Result<std::unique_ptr<Logging>> start(LogLevel level);
  // What is in the queue has a second to be written.
  ~Logging();

 private:
  explicit Logging(std::shared_ptr<LogSink> sink) : sink_(std::move(sink)) {}
  std::shared_ptr<LogSink> sink_;
};

void set_log_level(LogLevel level);

}  // namespace tcpmux
