// The request line: what the parser needs for a line that comes whole and for one that comes byte
// by byte, and what its two inner loops cost written otherwise.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

#include "bench/micro/line_end.h"
#include "bench/micro/name_lengths.h"
#include "core/base/check.h"
#include "core/mux/request.h"

namespace bench {
namespace {

using tcpmux::LineStatus;
using tcpmux::RequestLine;

constexpr std::size_t kLineBytesMax = 512;
constexpr std::size_t kNameBytesMax = 255;

std::string line_with_name_of(std::size_t name_bytes) {
  return std::string(name_bytes, 'n') + "\r\n";
}

struct Judged {
  LineStatus status = LineStatus::kIncomplete;
  std::size_t taken = 0;
};

Judged judged_by_parser(std::string_view bytes) {
  RequestLine line;
  line.clear();
  std::copy(bytes.begin(), bytes.end(), line.room(kLineBytesMax).begin());
  Judged judged;
  judged.status = line.scan(bytes.size(), kLineBytesMax, judged.taken);
  return judged;
}

// ---- the parser itself

// The line stands where the kernel has put it; only the parser is timed.
void scan_whole_line(benchmark::State& state) {
  const std::string bytes = line_with_name_of(static_cast<std::size_t>(state.range(0)));
  RequestLine line;
  line.clear();
  std::copy(bytes.begin(), bytes.end(), line.room(kLineBytesMax).begin());
  for (auto _ : state) {
    line.clear();
    std::size_t take = 0;
    const LineStatus status = line.scan(bytes.size(), kLineBytesMax, take);
    TCPMUX_CHECK(status == LineStatus::kName && take == bytes.size(), "the line is whole");
    benchmark::DoNotOptimize(line.name());
  }
}
BENCHMARK(scan_whole_line)->Name("request_line/whole")->Apply(name_lengths);

void scan_byte_by_byte(benchmark::State& state) {
  const std::string bytes = line_with_name_of(static_cast<std::size_t>(state.range(0)));
  RequestLine line;
  for (auto _ : state) {
    line.clear();
    LineStatus status = LineStatus::kIncomplete;
    for (const char byte : bytes) {
      line.room(kLineBytesMax).front() = byte;
      std::size_t take = 0;
      status = line.scan(1, kLineBytesMax, take);
    }
    TCPMUX_CHECK(status == LineStatus::kName, "the last byte ends the line");
    benchmark::DoNotOptimize(line.name());
  }
}
BENCHMARK(scan_byte_by_byte)->Name("request_line/byte_by_byte")->Apply(name_lengths);

// ---- looking for the line's end

// Every length of a line, with its end at every place (and another behind it) and with none.
bool check_line_end(std::size_t (*find)(std::string_view)) {
  for (std::size_t length = 1; length <= kNameBytesMax + 2; ++length) {
    for (std::size_t end = 0; end <= length; ++end) {
      std::string bytes(length, 'n');
      if (end < length) bytes[end] = '\n';
      if (end + 1 < length) bytes.back() = '\n';
      const std::size_t taken = std::min(find(bytes) + 1, length);
      TCPMUX_CHECK(taken == judged_by_parser(bytes).taken,
                   "it finds the end that the parser finds");
    }
  }
  return true;
}

template <std::size_t (*find)(std::string_view)>
void find_line_end(benchmark::State& state) {
  static const bool checked [[maybe_unused]] = check_line_end(find);
  const std::string bytes = line_with_name_of(static_cast<std::size_t>(state.range(0)));
  for (auto _ : state)
    benchmark::DoNotOptimize(find(bytes));
}
BENCHMARK(find_line_end<find_line_end_by_memchr>)->Name("line_end/memchr")->Apply(name_lengths);
BENCHMARK(find_line_end<find_line_end_by_byte>)->Name("line_end/byte")->Apply(name_lengths);

// ---- seeing that all of it is visible

// Every byte at every place of names on both sides of a vector's length.
bool check_visible(bool (*is_visible)(std::string_view)) {
  for (std::size_t length = 1; length <= 40; ++length) {
    for (std::size_t at = 0; at < length; ++at) {
      for (int byte = 0; byte < 256; ++byte) {
        if (byte == '\n' || byte == '\r') continue;  // they end the line
        std::string name(length, 'n');
        name[at] = static_cast<char>(byte);
        const bool good = judged_by_parser(name + "\r\n").status == LineStatus::kName;
        TCPMUX_CHECK(is_visible(name) == good, "it sees what the parser sees");
      }
    }
  }
  return true;
}

template <bool (*is_visible)(std::string_view)>
void see_visible(benchmark::State& state) {
  static const bool checked [[maybe_unused]] = check_visible(is_visible);
  const std::string name(static_cast<std::size_t>(state.range(0)), 'n');
  for (auto _ : state)
    benchmark::DoNotOptimize(is_visible(name));
}
BENCHMARK(see_visible<is_visible_until_not>)->Name("visible/until_not")->Apply(name_lengths);
BENCHMARK(see_visible<is_visible_in_all>)->Name("visible/in_all")->Apply(name_lengths);

#if defined(__x86_64__)
void find_line_end_with_avx2(benchmark::State& state) {
  if (has_avx2()) return find_line_end<find_line_end_by_avx2>(state);
  state.SkipWithError("this processor has no AVX2");
}
BENCHMARK(find_line_end<find_line_end_by_sse2>)->Name("line_end/sse2")->Apply(name_lengths);
BENCHMARK(find_line_end_with_avx2)->Name("line_end/avx2")->Apply(name_lengths);
BENCHMARK(see_visible<is_visible_by_sse2>)->Name("visible/sse2")->Apply(name_lengths);
#endif

}  // namespace
}  // namespace bench
