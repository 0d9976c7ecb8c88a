// Operating errors: something outside the program went wrong and the caller decides what follows.
// Expected outcomes (would block, reset) are enum values; bugs are CHECKs (check.h).
#pragma once

#include <expected>
#include <string>
#include <utility>

namespace tcpmux {

// `message` is a sentence for a person: what failed, on what, why, and what to do where we know.
// `code` is the errno behind it, or 0 where no system call was involved.
struct Error {
  std::string message;
  int code = 0;
};

template <class T>
using Result = std::expected<T, Error>;
using Status = Result<void>;

// "bind 127.0.0.1:80: Permission denied". `what` names the call and its object.
Error system_error(std::string what, int code);

inline std::unexpected<Error> fail(std::string message, int code = 0) {
  return std::unexpected(Error{std::move(message), code});
}
// Uses the current errno.
std::unexpected<Error> fail_errno(std::string what);

}  // namespace tcpmux
