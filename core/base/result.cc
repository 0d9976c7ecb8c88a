#include "core/base/result.h"

#include <cerrno>
#include <cstring>

namespace tcpmux {

Error system_error(std::string what, int code) {
  what += ": ";
  what += std::strerror(code);
  return Error{std::move(what), code};
}

std::unexpected<Error> fail_errno(std::string what) {
  const int code = errno;
  return std::unexpected(system_error(std::move(what), code));
}

}  // namespace tcpmux
