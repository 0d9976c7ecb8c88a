#include "core/base/fd.h"

#include <unistd.h>

#include <cerrno>

#include "core/base/check.h"

namespace tcpmux {

void OwnFd::reset(int fd) {
  const int old = std::exchange(fd_, fd);
  if (old < 0) return;
  // EINTR: Linux has released the descriptor all the same (close(2)), so it is never retried.
  // EBADF means that somebody else closed what we own: the next accept would reuse the number.
  const int saved = errno;
  if (::close(old) < 0) TCPMUX_CHECK(errno != EBADF, "closed a descriptor that is not open");
  errno = saved;
}

}  // namespace tcpmux
