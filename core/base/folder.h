// The folder in which a file is to be made.
#pragma once

#include <string>

#include "core/base/result.h"

namespace tcpmux {

// Makes the folder of `path`, one level, where it is missing. An error says `what`, and the call.
Status make_folder_of(const std::string& path, const std::string& what);

}  // namespace tcpmux
