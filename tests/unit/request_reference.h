// What a request line is, said in the plainest way: over the whole input at once, with copies. The
// parser (core/mux/request.h), which sees its input in pieces, must come to the same.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/mux/request.h"

namespace tcpmux {

struct LineOutcome {
  LineStatus status = LineStatus::kIncomplete;
  std::size_t taken = 0;  // bytes of the input that are line
  std::string name{};     // kName
  friend bool operator==(const LineOutcome&, const LineOutcome&) = default;
};

inline LineOutcome judged_at_once(std::string_view input, std::size_t line_bytes_max) {
  const std::string_view seen = input.substr(0, line_bytes_max);
  const std::size_t end = seen.find('\n');
  if (end == std::string_view::npos) {
    const bool full = seen.size() == line_bytes_max;
    return {full ? LineStatus::kTooLong : LineStatus::kIncomplete, seen.size()};
  }
  std::string_view name = seen.substr(0, end);
  if (name.ends_with('\r')) name.remove_suffix(1);
  if (name.size() > 255) return {LineStatus::kTooLong, end + 1};
  const bool visible =
      std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < '\x7F'; });
  if (name.empty() || !visible) return {LineStatus::kInvalid, end + 1};
  return {LineStatus::kName, end + 1, std::string(name)};
}

// Lets the parser peek at `input` as a shard does: by and by, as far as has come. `cuts` says how
// much has come each time, rising; at the end all has. `wrong` names the first promise that the
// parser broke, if it did.
inline LineOutcome judged_in_pieces(RequestLine& line, std::string_view input,
                                    std::span<const std::size_t> cuts, std::size_t line_bytes_max,
                                    const char*& wrong) {
  LineOutcome outcome;
  const auto peek_until = [&](std::size_t arrived) {
    while (outcome.taken < arrived && outcome.status == LineStatus::kIncomplete) {
      const std::span<char> room = line.room(line_bytes_max);
      if (room.empty()) wrong = "there is room to peek to";
      if (outcome.taken + room.size() > line_bytes_max) wrong = "no more than a line is peeked";
      // What stood there before is of no meaning, be it line ends.
      std::fill(room.begin(), room.end(), '\n');
      const std::size_t peeked = std::min(room.size(), arrived - outcome.taken);
      std::copy_n(input.begin() + static_cast<std::ptrdiff_t>(outcome.taken), peeked, room.begin());
      std::size_t take = 0;
      outcome.status = line.scan(peeked, line_bytes_max, take);
      if (take == 0 || take > peeked) wrong = "what is taken was peeked";
      if (outcome.status == LineStatus::kIncomplete && take != peeked)
        wrong = "without a line end all that was peeked is line";
      if (wrong != nullptr) return;
      outcome.taken += take;
    }
  };
  for (const std::size_t cut : cuts) {
    if (wrong == nullptr) peek_until(std::min(cut, input.size()));
  }
  if (wrong == nullptr) peek_until(input.size());
  if (outcome.status == LineStatus::kName) outcome.name = line.name();
  return outcome;
}

}  // namespace tcpmux
