// Whether this process is a child of the one that made something. Costs no system call where it
// is asked, unlike getpid().
#pragma once

#include <cstdint>

namespace tcpmux::handoff {

// To be called once before fork_generation() is relied on; again does no harm.
void watch_forks();
// One more in a child of fork() than in its parent.
std::uint32_t fork_generation();

}  // namespace tcpmux::handoff
