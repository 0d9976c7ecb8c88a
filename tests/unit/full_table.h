// A descriptor table that is full, for the life of an object.
#pragma once

#include <sys/resource.h>
#include <unistd.h>

#include <cstddef>
#include <vector>

#include "core/base/fd.h"

namespace tcpmux {

class FullTable {
 public:
  // Lowers RLIMIT_NOFILE; nothing is taken yet.
  explicit FullTable(rlim_t limit) {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    rlimit lower = before_;
    lower.rlim_cur = limit;
    ::setrlimit(RLIMIT_NOFILE, &lower);
  }
  FullTable(const FullTable&) = delete;
  FullTable& operator=(const FullTable&) = delete;
  ~FullTable() { ::setrlimit(RLIMIT_NOFILE, &before_); }

  void take_all() {
    for (int fd = ::dup(0); fd >= 0; fd = ::dup(0))
      taken_.emplace_back(fd);
  }
  void give_back(std::size_t count) {
    for (; count > 0 && !taken_.empty(); --count)
      taken_.pop_back();
  }

 private:
  rlimit before_{};
  std::vector<OwnFd> taken_;
};

}  // namespace tcpmux
