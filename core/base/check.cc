#include "core/base/check.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace tcpmux {

void check_failed(const char* condition, const char* file, int line, const char* why) {
  const int error = errno;
  std::fprintf(stderr, "tcpmux: bug at %s:%d: %s (failed: %s; errno %d, %s)\n", file, line, why,
               condition, error, std::strerror(error));
  std::abort();
}

}  // namespace tcpmux
