// A successor must not stay a child of the daemon whose place it takes: systemd (252) kills a main
// process at once, instead of waiting for its end, when it was no child of its own at the time when
// it was named as MAINPID. So a successor forks before it has threads. The parent, its guardian,
// has nothing but a pipe; it ends with the status of the child when that ends, and at once when the
// child is let go: then whoever adopts orphans, which is systemd, is the child's parent.
#pragma once

#include "core/base/fd.h"
#include "core/base/result.h"

namespace tcpmux::handoff {

class Guardian {
 public:
  // Returns in the child alone, which dies with the guardian until let_go(). To be called before
  // there are threads.
  static Result<Guardian> fork_off();
  // The guardian ends.
  void let_go();

 private:
  explicit Guardian(OwnFd pipe) : pipe_(std::move(pipe)) {}
  OwnFd pipe_;
};

}  // namespace tcpmux::handoff
