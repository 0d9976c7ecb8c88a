#include "bench/micro/line_end.h"

#include <algorithm>
#include <bit>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace bench {
namespace {

constexpr bool is_visible(char c) {
  return c >= 0x21 && c <= 0x7E;
}

// What is left when no whole vector fits.
std::size_t find_line_end_from(std::string_view bytes, std::size_t at) {
  while (at < bytes.size() && bytes[at] != '\n')
    ++at;
  return at;
}

}  // namespace

std::size_t find_line_end_by_memchr(std::string_view bytes) {
  const void* const end = std::memchr(bytes.data(), '\n', bytes.size());
  return end == nullptr ? bytes.size()
                        : static_cast<std::size_t>(static_cast<const char*>(end) - bytes.data());
}

std::size_t find_line_end_by_byte(std::string_view bytes) {
  return find_line_end_from(bytes, 0);
}

bool is_visible_until_not(std::string_view bytes) {
  return std::all_of(bytes.begin(), bytes.end(), is_visible);
}

// With a bool and `&=` GCC 12 does not vectorise it, and it is slower than stopping early.
bool is_visible_in_all(std::string_view bytes) {
  unsigned char hidden = 0;
  for (const char c : bytes)
    hidden = static_cast<unsigned char>(hidden | !is_visible(c));
  return hidden == 0;
}

#if defined(__x86_64__)

std::size_t find_line_end_by_sse2(std::string_view bytes) {
  const __m128i line_feed = _mm_set1_epi8('\n');
  std::size_t at = 0;
  for (; at + 16 <= bytes.size(); at += 16) {
    const __m128i sixteen = _mm_loadu_si128(reinterpret_cast<const __m128i_u*>(bytes.data() + at));
    const auto found = static_cast<unsigned>(_mm_movemask_epi8(_mm_cmpeq_epi8(sixteen, line_feed)));
    if (found != 0) return at + static_cast<std::size_t>(std::countr_zero(found));
  }
  return find_line_end_from(bytes, at);
}

__attribute__((target("avx2"))) std::size_t find_line_end_by_avx2(std::string_view bytes) {
  const __m256i line_feed = _mm256_set1_epi8('\n');
  std::size_t at = 0;
  for (; at + 32 <= bytes.size(); at += 32) {
    const __m256i thirty_two =
        _mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(bytes.data() + at));
    const auto found =
        static_cast<unsigned>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(thirty_two, line_feed)));
    if (found != 0) return at + static_cast<std::size_t>(std::countr_zero(found));
  }
  return at + find_line_end_by_sse2(bytes.substr(at));
}

bool has_avx2() {
  return __builtin_cpu_supports("avx2") != 0;
}

// Bytes from 0x80 on are negative as SSE2 compares them, so they are below the first visible one.
bool is_visible_by_sse2(std::string_view bytes) {
  const __m128i before_first = _mm_set1_epi8(0x20);
  const __m128i behind_last = _mm_set1_epi8(0x7F);
  std::size_t at = 0;
  for (; at + 16 <= bytes.size(); at += 16) {
    const __m128i sixteen = _mm_loadu_si128(reinterpret_cast<const __m128i_u*>(bytes.data() + at));
    const __m128i visible =
        _mm_and_si128(_mm_cmpgt_epi8(sixteen, before_first), _mm_cmplt_epi8(sixteen, behind_last));
    if (_mm_movemask_epi8(visible) != 0xFFFF) return false;
  }
  return is_visible_until_not(bytes.substr(at));
}

#endif

}  // namespace bench
