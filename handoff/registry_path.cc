// Registry, the part about its path: it may be removed or replaced while we run. Who is registered
// does not notice; who wants to register cannot, until the socket stands there again.
#include <spdlog/spdlog.h>

#include <utility>

#include "handoff/registry.h"

namespace tcpmux::handoff {
namespace {

// For what the kernel does not tell us: a folder on the way that got another name, a watch that
// could not be had.
constexpr std::int64_t kLook_ns = 5 * kNanosPerSecond;
// While it is not ours.
constexpr std::int64_t kLookAgain_ns = kNanosPerSecond;

}  // namespace

void Registry::watch_path() {
  look_at_path_ns_ = monotonic_ns() + kLook_ns;
  if (socket_.watch_fd() < 0) return;
  const Status watched = loop_.add(socket_.watch_fd(), [this] { look_at_path(); });
  if (!watched) SPDLOG_DEBUG("registry: {}", watched.error().message);
}

void Registry::look_at_path() {
  socket_.read_watch();
  look_at_path_ns_ = shutting_down_ ? kNever_ns : monotonic_ns() + kLook_ns;
  if (shutting_down_) return;
  if (!socket_.is_at_path()) return restore_path();
  if (std::exchange(path_trouble_, "").empty()) return;
  SPDLOG_INFO("registry: {} is our socket again", socket_.path());
  watch_path();
}

void Registry::restore_path() {
  if (path_trouble_.empty()) SPDLOG_WARN("registry: {} is no longer our socket", socket_.path());
  // Whoever came in time is served: a listener that is closed turns its backlog away.
  while (accept_paused_until_ns_ == kNever_ns && socket_.somebody_waits())
    accept();
  loop_.remove(socket_.watch_fd());
  loop_.remove(socket_.fd());
  const Status restored = socket_.restore();
  if (restored) {
    SPDLOG_INFO("registry: {} was made again", socket_.path());
    path_trouble_.clear();
    watch_path();
  } else {
    if (path_trouble_ != restored.error().message)
      SPDLOG_ERROR("registry: no backend can register: {} (who is registered goes on)",
                   restored.error().message);
    path_trouble_ = restored.error().message;
    look_at_path_ns_ = monotonic_ns() + kLookAgain_ns;
  }
  // The pause of tick(): it adds the socket, and tries again where that fails.
  accept_paused_until_ns_ = monotonic_ns();
}

}  // namespace tcpmux::handoff
