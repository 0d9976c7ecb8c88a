#include "core/server/accounts.h"

#include <grp.h>
#include <pwd.h>

#include <cerrno>
#include <cstddef>
#include <vector>

#include "core/server/complaints.h"

namespace tcpmux {
namespace {

constexpr std::size_t kEntryBytesMin = std::size_t{1} << 12;
constexpr std::size_t kEntryBytesMax = std::size_t{1} << 24;  // a group may have many members

// `look_up` is getpwnam_r or getgrnam_r, which say ERANGE until their buffer is large enough.
template <class Entry, class Number, class LookUp>
Result<Number> find_number(const std::string& kind, const std::string& name, LookUp look_up,
                           Number Entry::* number) {
  // An embedded NUL would look up what stands before it.
  int error = name.find('\0') == std::string::npos ? ERANGE : ENOENT;
  Entry entry{};
  Entry* found = nullptr;
  for (std::size_t bytes = kEntryBytesMin; error == ERANGE && bytes <= kEntryBytesMax; bytes *= 2) {
    std::vector<char> buffer(bytes);
    do {
      error = look_up(name.c_str(), &entry, buffer.data(), buffer.size(), &found);
    } while (error == EINTR);
  }
  if (error == 0 && found != nullptr) return entry.*number;
  // getpwnam(3) lists these as other ways to say "not found".
  const bool absent =
      error == 0 || error == ENOENT || error == ESRCH || error == EBADF || error == EPERM;
  if (absent) return fail("there is no " + kind + " " + quoted(name));
  return std::unexpected(system_error("cannot look up the " + kind + " " + quoted(name), error));
}

}  // namespace

Result<uid_t> find_user(const std::string& name) {
  return find_number("user", name, ::getpwnam_r, &passwd::pw_uid);
}

Result<gid_t> find_group(const std::string& name) {
  return find_number("group", name, ::getgrnam_r, &group::gr_gid);
}

}  // namespace tcpmux
