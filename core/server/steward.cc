#include "core/server/steward.h"

#include <spdlog/spdlog.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <string>

#include "core/base/check.h"
#include "core/base/clock.h"

namespace tcpmux {
namespace {

sigset_t our_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2})
    ::sigaddset(&set, signal);
  return set;
}

}  // namespace

void block_signals() {
  const sigset_t set = our_signals();
  TCPMUX_CHECK(::pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0, "the set of signals is valid");
  TCPMUX_CHECK(std::signal(SIGPIPE, SIG_IGN) != SIG_ERR, "SIGPIPE can be ignored");
}

Result<std::unique_ptr<Steward>> Steward::create(EventLoop& loop, StewardMailbox& mailbox,
                                                 ShardSet& shards, std::int64_t drain_ms) {
  const sigset_t set = our_signals();
  OwnFd signals(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals.valid()) return fail_errno("signalfd");
  std::unique_ptr<Steward> steward(
      new Steward(loop, mailbox, shards, drain_ms, std::move(signals)));
  Status added = loop.add(steward->signals_.get(), [s = steward.get()] { s->receive_signals(); });
  if (added) added = loop.add(mailbox.wakeup_fd(), [s = steward.get()] { s->receive_messages(); });
  if (!added) return std::unexpected(added.error());
  return steward;
}

Steward::Steward(EventLoop& loop, StewardMailbox& mailbox, ShardSet& shards, std::int64_t drain_ms,
                 OwnFd signals)
    : loop_(loop),
      mailbox_(mailbox),
      shards_(shards),
      drain_ms_(drain_ms),
      signals_(std::move(signals)) {}

void Steward::receive_signals() {
  signalfd_siginfo info{};
  while (::read(signals_.get(), &info, sizeof info) == sizeof info) {
    const auto signal = static_cast<int>(info.ssi_signo);
    if (signal == SIGUSR1) {
      log_counters();
    } else if (signal == SIGHUP) {
      hooks_.reload();
    } else if (signal == SIGUSR2) {
      hooks_.upgrade();
    } else if (shutting_down_) {
      SPDLOG_WARN("{} again: ending at once", ::strsignal(signal));
      forced_ = true;
      loop_.stop();
    } else {
      begin_shutdown(::strsignal(signal));
    }
  }
}

void Steward::begin_shutdown(const char* why) {
  shutting_down_ = true;
  SPDLOG_INFO("shutting down ({}): no more connections are accepted, handshakes have {} ms", why,
              drain_ms_);
  hooks_.shutdown_begins();
  const std::int64_t deadline_ns = monotonic_ns() + drain_ms_ * kNanosPerMilli;
  shards_.send_all([deadline_ns] {
    ShardMessage message;
    message.kind = ShardMessage::Kind::kShutdown;
    message.deadline_ns = deadline_ns;
    return message;
  });
}

void Steward::ask_shards_again() {
  ++report_number_;
  shards_done_ = 0;
  shards_.send_all([this] {
    ShardMessage message;
    message.kind = ShardMessage::Kind::kReport;
    message.number = report_number_;
    return message;
  });
}

void Steward::receive_messages() {
  std::uint64_t signalled = 0;
  // EAGAIN: somebody else's message woke us, and has been received with it.
  if (::read(mailbox_.wakeup_fd(), &signalled, sizeof signalled) < 0)
    TCPMUX_CHECK(errno == EAGAIN || errno == EINTR, "an eventfd can be read");
  StewardMessage message;
  while (mailbox_.receive(message))
    receive(message);
}

void Steward::receive(StewardMessage& message) {
  switch (message.kind) {
    case StewardMessage::Kind::kNone:
      return;
    case StewardMessage::Kind::kRefusal:
      log_refusal(message.refusal);
      return;
    case StewardMessage::Kind::kAcceptFailed:
      SPDLOG_ERROR(
          "accept: {}: newcomers are told to try again until something is free; raise the limit "
          "(ulimit -n, LimitNOFILE=) or lower handshake.connections_per_shard_max",
          std::strerror(static_cast<int>(message.number)));
      return;
    case StewardMessage::Kind::kSink:
      hooks_.sink(std::move(message.sink));
      return;
    case StewardMessage::Kind::kSinkNotice:
      hooks_.sink_notice(message);
      return;
    case StewardMessage::Kind::kShardPaused:
      hooks_.shard_paused();
      return;
    case StewardMessage::Kind::kPassedOn:
      hooks_.passed_on(std::move(message.connection));
      return;
    case StewardMessage::Kind::kShardDone:
      if (message.number == report_number_ && ++shards_done_ == shards_.size())
        hooks_.shards_done();
      return;
  }
}

void Steward::log_refusal(const RefusalRecord& record) const {
  const std::string name(record.name.data(), record.name_bytes);
  const std::string more =
      record.suppressed == 0 ? "" : fmt::format(" (and {} more not logged)", record.suppressed);
  SPDLOG_WARN("refused {}: {}{}{}", to_string(record.source), refusal_reason(record.refusal),
              name.empty() ? "" : fmt::format(" '{}'", name), more);
}

void Steward::log_counters() const {
  CounterValues values;
  for (std::uint32_t i = 0; i < shards_.size(); ++i)
    values.add(shards_.counters(i));
  std::string line;
  for (std::size_t i = 0; i < values.named.size(); ++i)
    line += fmt::format(" {}={}", kNamedCounters[i].name, values.named[i]);
  std::uint64_t refused_all = 0;
  std::string refused;
  for (std::size_t i = 0; i < values.refused.size(); ++i) {
    refused_all += values.refused[i];
    refused +=
        fmt::format(" refused_{}={}", refusal_word(static_cast<Refusal>(i)), values.refused[i]);
  }
  SPDLOG_INFO("counters:{} refused={}{}", line, refused_all, refused);
}

}  // namespace tcpmux
