// When the next connection is to begin: as soon as one has ended (closed loop), or at constant
// intervals whatever the server does (open loop).
//
// In the open loop a connection that cannot begin in time begins late, and whoever counts from
// `start_ns` counts the delay too. What is later than `patience_ns` is not begun any more
// (`expired`): its client would have gone. So a run ends, however slow the server.
#pragma once

#include <cstdint>
#include <optional>

namespace load {

struct SchedulePlan {
  double per_second = 0;             // of all threads together; 0: closed loop
  std::uint32_t at_once = 1;         // of this thread
  std::uint64_t count = UINT64_MAX;  // of this thread
  std::int64_t begin_ns = 0;
  std::int64_t until_ns = INT64_MAX;  // no start at or after it
  std::int64_t patience_ns = INT64_MAX;
  std::uint32_t thread = 0;  // threads take the starts of an open loop in turn
  std::uint32_t threads = 1;
};

class Schedule {
 public:
  struct Start {
    std::int64_t start_ns = 0;  // intended
    bool expired = false;
  };

  explicit Schedule(const SchedulePlan& plan) : plan_(plan) {}

  // The next connection, if one is to begin now, `open` being under way.
  std::optional<Start> take(std::int64_t now_ns, std::uint32_t open);

  // When to ask again if no connection ends before; INT64_MAX when time alone changes nothing.
  std::int64_t next_ns(std::uint32_t open) const;

  // No more will begin, or their time is over.
  bool over(std::int64_t now_ns) const;
  void stop() { plan_.count = begun_; }
  std::uint64_t begun() const { return begun_; }

 private:
  bool is_open_loop() const { return plan_.per_second > 0; }
  std::int64_t intended_ns() const;

  SchedulePlan plan_;
  std::uint64_t begun_ = 0;
};

}  // namespace load
