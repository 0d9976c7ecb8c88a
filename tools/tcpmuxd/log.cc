#include "tools/tcpmuxd/log.h"

#include <spdlog/async.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <array>

namespace tcpmux {
namespace {

constexpr std::size_t kLogLinesMax = 8192;

}  // namespace

// When the queue of lines is full, the oldest go, and are counted.
void start_logging(LogLevel level) {
  spdlog::init_thread_pool(kLogLinesMax, 1);
  auto logger = std::make_shared<spdlog::async_logger>(
      "tcpmuxd", std::make_shared<spdlog::sinks::stderr_sink_mt>(), spdlog::thread_pool(),
      spdlog::async_overflow_policy::overrun_oldest);
  logger->set_pattern("%Y-%m-%d %H:%M:%S.%e %l %v");
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
  set_log_level(level);
}

void set_log_level(LogLevel level) {
  constexpr std::array kLevels = {spdlog::level::debug, spdlog::level::info, spdlog::level::warn,
                                  spdlog::level::err, spdlog::level::off};
  spdlog::default_logger()->set_level(kLevels[static_cast<std::size_t>(level)]);
}

void say_dropped_lines(EventLoop& loop) {
  loop.add_tick(1000, [said = std::size_t{0}]() mutable {
    const std::size_t dropped = spdlog::thread_pool()->overrun_counter();
    if (dropped == said) return;
    SPDLOG_WARN("{} lines of the log were dropped: they could not be written fast enough",
                dropped - said);
    said = dropped;
  });
}

}  // namespace tcpmux
