// CHECK: for bugs only. Expected outcomes are enum values, operating errors are Result<T>
// (result.h); a CHECK that fails means that the program itself is wrong, so it says where and
// aborts, in release builds too.
#pragma once

namespace tcpmux {

[[noreturn]] void check_failed(const char* condition, const char* file, int line, const char* why);

}  // namespace tcpmux

#define TCPMUX_CHECK(condition, why)                               \
  do {                                                             \
    if (!(condition)) [[unlikely]]                                 \
      ::tcpmux::check_failed(#condition, __FILE__, __LINE__, why); \
  } while (false)

// For the end of what has returned in every case.
#define TCPMUX_UNREACHABLE(why) ::tcpmux::check_failed("unreachable", __FILE__, __LINE__, why)
