#include "core/base/folder.h"

#include <sys/stat.h>

#include <cerrno>

namespace tcpmux {

Status make_folder_of(const std::string& path, const std::string& what) {
  const std::size_t slash = path.rfind('/');
  const std::string folder = path.substr(0, slash == std::string::npos ? 0 : slash);
  if (folder.empty() || ::mkdir(folder.c_str(), 0755) == 0 || errno == EEXIST) return {};
  return fail_errno(what + ": mkdir " + folder);
}

}  // namespace tcpmux
