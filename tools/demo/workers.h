// Processes that do the same work, and one that sees to it that there are always so many.
#pragma once

#include <functional>

namespace demo {

// Forks `count` processes that run `work` and end with what it gives, and replaces those that a
// signal kills. SIGTERM and SIGINT end all of them, SIGUSR1 is passed on; they also end with the
// calling process. Gives the exit status when all have ended: 0, or that of one that failed.
int keep_workers(int count, const std::function<int()>& work);

}  // namespace demo
