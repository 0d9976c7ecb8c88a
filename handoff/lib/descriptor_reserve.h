// Room for the descriptors of the next message. What does not fit into the descriptor table when a
// message is received is closed by the kernel, and those clients are lost; so there is room before
// we receive, or we do not receive.
#pragma once

#include <cstddef>
#include <vector>

#include "core/base/fd.h"

namespace tcpmux::handoff {

class DescriptorReserve {
 public:
  // Nothing is held until fill().
  explicit DescriptorReserve(std::size_t size) : size_(size) {}

  // Holds as many spare descriptors as there is room for; true when that is all of them.
  bool fill();
  bool full() const { return spare_.size() == size_; }
  void release() { spare_.clear(); }

  // True: the next recvmsg finds room for `size` descriptors; give_back() must follow it. False:
  // there is none, and nothing has changed.
  [[nodiscard]] bool lend();
  void give_back();

 private:
  bool top_of_table_is_free() const;

  std::size_t size_;
  std::size_t limit_ = 0;  // RLIMIT_NOFILE, as it was when the reserve was filled
  bool lent_ = false;
  OwnFd original_;  // what the spare ones are copies of: they hold nothing but a number
  std::vector<OwnFd> spare_;
};

}  // namespace tcpmux::handoff
