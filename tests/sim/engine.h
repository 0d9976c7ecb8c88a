// IoBackend, the third: a simulated kernel instead of a real one. It promises what
// core/io/backend.h promises, and no more: completions come late and in any order, an accept ends
// when it likes, a cancelled operation may have been faster, a wait may end for nothing.
//
// An operation is tried when it is started (as the epoll engine does), or in the next reap() (as
// io_uring does): the dial lazy_engine says which. What must wait is tried again in the first
// reap() after its socket has changed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/io/backend.h"
#include "tests/sim/client.h"
#include "tests/sim/context.h"
#include "tests/sim/kernel.h"
#include "tests/sim/ledger.h"

namespace tcpmux::sim {

class SimBackend final : public Watcher {
 public:
  struct Parts {
    Context& context;
    Kernel& kernel;
    Clients& clients;
    Ledger& ledger;
  };
  // `shard`: its number in the world; `listener`: whose backlog it may accept from.
  SimBackend(Parts parts, std::uint32_t shard, std::uint32_t listener);
  ~SimBackend();
  SimBackend(const SimBackend&) = delete;
  SimBackend& operator=(const SimBackend&) = delete;

  // IoBackend
  void accept(Tag tag, int fd);
  void watch_wakeups(Tag tag, int fd);
  void peek(Tag tag, int fd, std::span<char> buffer);
  void discard(Tag tag, int fd, std::size_t count);
  void reply(Tag tag, int fd, std::size_t count, std::span<const char> bytes, bool hold_back);
  void drain(Tag tag, int fd);
  void cancel(Tag tag, int fd);
  void let_go(int fd);
  void close(int fd);
  std::int64_t send_now(int fd, const msghdr* message);
  void shutdown_write(int fd);
  Endpoints endpoints(int fd);
  std::uint32_t queued_bytes(int fd);
  std::int64_t receive_now(int fd, msghdr* message);
  bool has_room_for(std::size_t count) {
    return kernel_.has_room(static_cast<std::uint32_t>(count));
  }
  int accept_now(int fd);
  void dismiss(int fd, std::span<const char> bytes);
  Shed shed(int fd, std::span<const char> bytes);
  std::size_t reap(std::span<Completion> completions);
  std::size_t wait(std::span<Completion> completions, std::int64_t deadline_ns);

  // Watcher
  void changed(std::uint32_t client) override;

  // --- for the world ---

  // The mailbox has something.
  void wake() { wakeup_ = true; }
  bool is_woken() const { return wakeup_; }
  // Its lanes have been given away, and with them what was promised in them.
  void lanes_have_gone() {
    ++picture_;
    plus_in_flight_.fill(0);
  }
  // When the shard is to have its next turn: at once where something is ready, at the deadline of
  // its last wait() at the latest.
  std::int64_t next_turn_ns() const;
  // In the last turn: it waited, for nothing had come; and how many completions had.
  bool waited() const { return waited_; }
  // It waits until something comes, or for a time that is still to come.
  bool sleeps() const { return waited_ && deadline_ns_ > turned_at_ns_; }
  std::size_t reaped() const { return reaped_; }
  std::int64_t deadline_ns() const { return deadline_ns_; }
  void begin_turn();
  bool was_useful() const { return reaped_ > 0 || calls_ > 0; }

 private:
  struct Result {
    std::int64_t due_ns = 0;
    std::uint32_t client = kNoClient;
    Completion completion;
  };
  using Kind = PendingOperation::Kind;

  void start(int fd, PendingOperation operation);
  void look_at(std::uint32_t place);
  void complete(std::uint32_t client, const Completion& completion);
  // True when there is a result.
  bool attempt(Client& client, std::int32_t& result);
  bool attempt_peek(Client& client, std::int32_t& result);
  bool attempt_take(Client& client, std::int32_t& result);
  bool attempt_reply(Client& client, std::int32_t& result);
  bool attempt_drain(Client& client, std::int32_t& result);
  std::int32_t put(Client& client, std::span<const char> bytes);
  std::int32_t end_of(Client& client);

  void accept_waiting();
  void note_accepted(int fd);
  void end_accept(std::int32_t result);
  int take_from_backlog();
  bool acquire_reserve();
  std::int32_t refuse_to_send(SimLane& lane);
  void put_into(SimLane& lane, const msghdr& message);
  void add_socket(const SimLane& lane, LaneMessage& message, int fd);
  void take_out(SimLane& lane, msghdr& message);
  void hand_out(const Result& result, Completion& completion);
  void check_place(const Client& client) const;

  Context& context_;
  Kernel& kernel_;
  Clients& clients_;
  Ledger& ledger_;
  std::uint32_t shard_;
  std::uint32_t listener_;
  bool lazy_;

  Tag accept_tag_;
  Tag wakeup_tag_;
  bool accepting_ = false;
  std::int64_t last_accept_due_ns_ = 0;
  bool wakeup_ = false;
  int reserve_ = -1;
  std::vector<std::uint32_t> changed_;              // clients whose operation is to be tried
  std::vector<Result> results_;                     // not yet reaped
  std::array<std::uint32_t, 16> plus_in_flight_{};  // '+' on its way, by service

  std::uint32_t picture_ = 1;

  bool waited_ = false;
  std::int64_t turned_at_ns_ = 0;
  std::size_t reaped_ = 0;
  std::uint32_t calls_ = 0;  // that changed something
  std::int64_t deadline_ns_ = 0;
};

static_assert(IoBackend<SimBackend>);

}  // namespace tcpmux::sim
