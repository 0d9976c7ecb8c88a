// A folder for one test, with a name of its own, removed with all that is in it.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <string>

#include "core/base/check.h"

namespace tcpmux {

class TestFolder {
 public:
  TestFolder() { TCPMUX_CHECK(::mkdtemp(path_.data()) != nullptr, "a test needs a folder"); }
  ~TestFolder() { std::filesystem::remove_all(path_); }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_ = (std::filesystem::temp_directory_path() / "tcpmux-unit-XXXXXX").string();
};

}  // namespace tcpmux
