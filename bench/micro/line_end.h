// Ways to look for the end of the request line, and ways to see that a name has visible characters
// alone. One of each is core/mux/request.cc's; the others are what it could have been.
//
// They are compiled apart from their callers, as the parser is, so each costs a call.
#pragma once

#include <cstddef>
#include <string_view>

namespace bench {

// Where the first LF stands; bytes.size() when there is none.
std::size_t find_line_end_by_memchr(std::string_view bytes);
std::size_t find_line_end_by_byte(std::string_view bytes);
#if defined(__x86_64__)
std::size_t find_line_end_by_sse2(std::string_view bytes);
std::size_t find_line_end_by_avx2(std::string_view bytes);  // only where has_avx2()
bool has_avx2();
#endif

// True exactly when all are 0x21 to 0x7E.
bool is_visible_until_not(std::string_view bytes);  // stops at the first that is not
bool is_visible_in_all(std::string_view bytes);  // looks at every byte, which compilers vectorise
#if defined(__x86_64__)
bool is_visible_by_sse2(std::string_view bytes);
#endif

}  // namespace bench
