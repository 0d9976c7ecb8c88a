// What became of the clients of this process, in a file that outlives it: mapped shared, so that
// what was counted before a kill -9 stands there after it. Without a file it counts for nobody.
//
// The file is three numbers of 8 bytes, in the machine's order:
//   receiving  1 while the library may be taking clients that are not counted yet, else 0
//   received   clients that came out of a lane, counted before anything is done with them
//   answered   clients that were sent something (discard: that were closed)
//
// So of a process that was killed, `received - answered` clients are its own loss; where
// `receiving` is 1 a message more may be (at most --batch clients).
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

namespace demo {

class Counts {
 public:
  Counts() = default;
  Counts(const Counts&) = delete;
  Counts& operator=(const Counts&) = delete;
  ~Counts();

  // Makes the file, or empties it. Throws std::system_error.
  void keep_in(const std::string& path);

  void receiving(bool now) { values_->receiving.store(now ? 1 : 0); }
  // All that this process has received so far.
  void received(std::uint64_t clients) { values_->received.store(clients); }
  void answered() { values_->answered.fetch_add(1); }

 private:
  struct Values {
    std::atomic<std::uint64_t> receiving;
    std::atomic<std::uint64_t> received;
    std::atomic<std::uint64_t> answered;
  };
  static_assert(sizeof(Values) == 24 && std::atomic<std::uint64_t>::is_always_lock_free);

  Values own_{};
  Values* values_ = &own_;
};

}  // namespace demo
