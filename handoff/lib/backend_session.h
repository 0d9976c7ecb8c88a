// What a tcpmux_backend is inside: a registration that is kept up, and the clients that come by it.
//
//   state        registry connected   welcomed   lanes   what ends it
//   waiting      no                   no         none    the timer: try to register
//   asking       yes                  no         none    Welcome, Refuse, or the timer
//   serving      yes                  yes        some    the registry's or the last lane's end
//   clearing     no                   yes        some    all lanes are empty: close them
//   over         no                   no         none    nothing: refused for good, or drained
//
// Everything happens in accept(); nothing in here blocks but its one wait.
#pragma once

#include <sys/epoll.h>
#include <tcpmux/backend.h>

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/fd.h"
#include "core/base/result.h"
#include "handoff/ancillary.h"
#include "handoff/lib/descriptor_reserve.h"
#include "handoff/lib/poll_set.h"
#include "handoff/lib/registry_link.h"
#include "handoff/lib/retry_pause.h"
#include "handoff/lib/socket_queue.h"
#include "handoff/message.h"

namespace tcpmux::handoff {

struct SessionOptions {
  std::string registry;
  std::vector<std::byte> registration;  // an encoded Register
  std::uint16_t batch = 0;
  bool nonblocking = false;
  bool wait_for_mux = false;
  int open_timeout_ms = 0;
  int retry_first_ms = 0;
  int retry_last_ms = 0;
};

class BackendSession {
 public:
  explicit BackendSession(SessionOptions options);

  // The first registration; to be called once, before anything else. On anything but TCPMUX_OK the
  // session is of no further use.
  tcpmux_result open();
  tcpmux_result accept(int timeout_ms, int& socket, const tcpmux_facts*& facts);
  int descriptor();
  void drain();
  void close();

  tcpmux_state state() const;
  const tcpmux_counters& counters() const { return counters_; }
  const std::string& registry() const { return options_.registry; }
  const std::string& error() const { return error_; }
  int refusal() const { return refusal_; }

 private:
  static constexpr std::uint64_t kRegistryTag = UINT64_MAX - 1;  // lanes: their index

  // Fork.
  bool inherited() const { return registered_in_ != seen_generation_; }
  Status follow_fork();

  // Registering.
  Status try_to_register();
  void adopt(RegistryEvent& event);
  void retry_later();
  bool over() const;

  // Waiting for what comes. TCPMUX_OK: go on.
  tcpmux_result wait_for_events(std::int64_t until_ns);
  tcpmux_result handle_next_event();
  void handle_timer();
  void handle_registry();
  tcpmux_result handle_lane(std::size_t index);
  tcpmux_result handle_no_message(std::size_t index, const Received& received);
  void handle_message(std::span<const std::byte> message, const Received& received);
  tcpmux_result clear_a_lane();
  void handle_refusal(const Refuse& refuse);
  tcpmux_result wait_for_welcome(std::int64_t until_ns);
  tcpmux_result first_failure() const;

  // Ending.
  void leave_registry(std::string why);
  void drop_lane(std::size_t index);
  void forget_events() { next_event_ = event_count_ = 0; }

  SessionOptions options_;
  PollSet polls_;
  DescriptorReserve reserve_;
  RetryPause pause_;
  RegistryLink registry_;
  std::vector<OwnFd> lanes_;  // index: the tag in polls_; invalid where one has ended
  std::size_t lanes_open_ = 0;
  SocketQueue queue_;

  bool welcomed_ = false;
  bool mux_drains_ = false;  // the mux said Drain or Goodbye
  bool drained_ = false;     // we did, or our parent process
  bool refused_finally_ = false;
  bool table_was_full_ = false;  // what ended the latest attempt to register
  bool loss_unreported_ = false;
  int refusal_ = 0;
  std::string error_;
  std::int64_t welcomed_at_ns_ = 0;
  std::uint32_t registered_in_ = 0;    // fork_generation() of the process that registered
  std::uint32_t seen_generation_ = 0;  // fork_generation() that polls_ belongs to
  tcpmux_counters counters_{};

  std::array<epoll_event, kLanesMax + 2> events_{};
  std::size_t next_event_ = 0;
  std::size_t event_count_ = 0;
  std::unique_ptr<std::byte[]> buffer_;
  std::array<OwnFd, kSocketsPerMessageMax> places_;
};

}  // namespace tcpmux::handoff
