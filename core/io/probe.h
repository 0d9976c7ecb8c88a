// Whether io_uring can be used here. Kernels, sysctls and containers refuse it in many ways, so it
// is tried: an engine is made, and serves one connection over the loopback.
#pragma once

#include <optional>

#include "core/base/result.h"

namespace tcpmux {

// Nothing where it works, or the step that failed and its likely cause. Takes three seconds at the
// most, and leaves nothing behind; may be called on any thread.
std::optional<Error> why_not_uring();

}  // namespace tcpmux
