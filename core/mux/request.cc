#include "core/mux/request.h"

#include <algorithm>
#include <cstring>

#include "core/base/check.h"
#include "core/mux/service_table.h"

namespace tcpmux {

std::span<char> RequestLine::room(std::size_t line_bytes_max) {
  const std::size_t taken = kept_ + dropped_;
  TCPMUX_CHECK(kept_ < kBytes && taken < line_bytes_max, "a line that is too long has ended");
  return std::span(bytes_).subspan(kept_, std::min(kBytes - kept_, line_bytes_max - taken));
}

LineStatus RequestLine::scan(std::size_t peeked, std::size_t line_bytes_max, std::size_t& take) {
  const char* const from = bytes_.data() + kept_;
  const void* const end = std::memchr(from, '\n', peeked);
  if (end != nullptr) {
    take = static_cast<std::size_t>(static_cast<const char*>(end) - from) + 1;
    return judge(kept_ + take - 1);
  }
  take = peeked;
  kept_ = static_cast<std::uint16_t>(kept_ + peeked);
  if (kept_ + dropped_ >= line_bytes_max) return LineStatus::kTooLong;
  if (kept_ == kBytes) {
    dropped_ += kept_;
    kept_ = 0;
  }
  return LineStatus::kIncomplete;
}

// `length`: bytes before the LF.
LineStatus RequestLine::judge(std::size_t length) {
  if (length > 0 && bytes_[length - 1] == '\r') --length;
  if (dropped_ > 0 || length > kServiceNameBytesMax) return LineStatus::kTooLong;
  const bool printable = std::all_of(bytes_.begin(), bytes_.begin() + length,
                                     [](char c) { return c >= 0x21 && c <= 0x7E; });
  if (length == 0 || !printable) return LineStatus::kInvalid;
  name_bytes_ = static_cast<std::uint16_t>(length);
  return LineStatus::kName;
}

bool is_help(std::string_view name) {
  constexpr std::string_view kHelp = "help";
  return name.size() == kHelp.size() &&
         std::equal(name.begin(), name.end(), kHelp.begin(),
                    [](char c, char lower) { return (c | 0x20) == lower; });
}

}  // namespace tcpmux
