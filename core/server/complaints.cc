#include "core/server/complaints.h"

#include <algorithm>

namespace tcpmux {
namespace {

constexpr std::size_t kQuotedBytesMax = 80;

bool is_control(char c) {
  return (c >= 0 && c < 0x20) || c == 0x7F;
}
bool continues_utf8(char c) {
  return (static_cast<unsigned char>(c) & 0xC0) == 0x80;
}

}  // namespace

std::string printable(std::string_view text) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  std::string result;
  result.reserve(text.size());
  for (const char c : text) {
    if (is_control(c)) {
      result += {'\\', 'x', kDigits[c >> 4], kDigits[c & 15]};
    } else {
      result += c;
    }
  }
  return result;
}

std::string quoted(std::string_view text) {
  if (text.size() <= kQuotedBytesMax) return "'" + printable(text) + "'";
  std::size_t end = kQuotedBytesMax;
  while (end > 0 && continues_utf8(text[end]))
    --end;
  return "'" + printable(text.substr(0, end)) + "...'";
}

void Complaints::add(Place place, std::string_view what) {
  complaints_.push_back({place, printable(what)});
}

std::string Complaints::joined() const {
  std::vector<const Complaint*> sorted;
  sorted.reserve(complaints_.size());
  for (const Complaint& complaint : complaints_)
    sorted.push_back(&complaint);
  // They lie in one array, so their addresses keep the order of those that share a place.
  std::sort(sorted.begin(), sorted.end(), [](const Complaint* a, const Complaint* b) {
    return a->place != b->place ? a->place < b->place : a < b;
  });
  std::string lines;
  for (const Complaint* complaint : sorted) {
    if (!lines.empty()) lines += '\n';
    lines += source_ + ":" + std::to_string(complaint->place.line) + ":" +
             std::to_string(complaint->place.column) + ": " + complaint->what;
  }
  return lines;
}

}  // namespace tcpmux
