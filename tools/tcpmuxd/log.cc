#include "tools/tcpmuxd/log.h"

#include <spdlog/async.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <array>
#include <system_error>

namespace tcpmux {
namespace {

constexpr std::size_t kLogLinesMax = 8192;

}  // namespace

// When the queue of lines is full, the oldest go, and are counted.
Result<std::unique_ptr<Logging>> Logging::start(LogLevel level) {
  try {
    spdlog::init_thread_pool(kLogLinesMax, 1);
  } catch (const std::system_error& error) {  // std::thread's
    return fail("the log's thread cannot be started: " + error.code().message() +
                "; raise the limits of memory and of processes (ulimit -v, ulimit -u, TasksMax=)");
  }
  auto sink = std::make_shared<LogSink>(STDERR_FILENO, *spdlog::thread_pool());
  auto logger = std::make_shared<spdlog::async_logger>(
      "tcpmuxd", sink, spdlog::thread_pool(), spdlog::async_overflow_policy::overrun_oldest);
  logger->set_pattern("%Y-%m-%d %H:%M:%S.%e %l %v");
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
  set_log_level(level);
  return std::unique_ptr<Logging>(new Logging(std::move(sink)));
}

Logging::~Logging() {
  sink_->end();
  spdlog::shutdown();
}

void set_log_level(LogLevel level) {
  constexpr std::array kLevels = {spdlog::level::debug, spdlog::level::info, spdlog::level::warn,
                                  spdlog::level::err, spdlog::level::off};
  spdlog::default_logger()->set_level(kLevels[static_cast<std::size_t>(level)]);
}

}  // namespace tcpmux
