// The system's users and groups, by name (passwd and group databases, through NSS).
#pragma once

#include <sys/types.h>

#include <string>

#include "core/base/result.h"

namespace tcpmux {

Result<uid_t> find_user(const std::string& name);
Result<gid_t> find_group(const std::string& name);

}  // namespace tcpmux
