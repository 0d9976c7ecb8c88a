#include "core/server/spelling.h"

#include <algorithm>
#include <cstddef>
#include <vector>

namespace tcpmux {
namespace {

constexpr std::size_t kWordBytesMax = 64;    // a longer one is near to nothing that we know
constexpr std::size_t kPrefixBytesMin = 3;   // "dead" for "deadline_ms", but not "d"
constexpr std::size_t kBytesPerMistake = 3;  // one mistake in three characters is still near

std::string folded(std::string_view word) {
  std::string result(word);
  for (char& c : result) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    if (c == '-') c = '_';
  }
  return result;
}

// How many characters to insert, remove, replace or swap with a neighbour (optimal string
// alignment), row by row of the usual table.
std::size_t mistakes_between(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before_last(b.size() + 1);
  std::vector<std::size_t> last(b.size() + 1);
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j)
    row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    before_last.swap(last);
    last.swap(row);
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({replaced, last[j] + 1, row[j - 1] + 1});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) row[j] = std::min(row[j], before_last[j - 2] + 1);
    }
  }
  return row[b.size()];
}

bool one_begins_the_other(std::string_view a, std::string_view b) {
  const std::size_t shorter = std::min(a.size(), b.size());
  return shorter >= kPrefixBytesMin && a.substr(0, shorter) == b.substr(0, shorter);
}

}  // namespace

std::string_view nearest_word(std::string_view word, std::span<const std::string_view> known) {
  if (word.size() > kWordBytesMax) return {};
  const std::string asked = folded(word);
  std::string_view nearest;
  std::size_t fewest = SIZE_MAX;
  for (const std::string_view candidate : known) {
    const std::string other = folded(candidate);
    const std::size_t mistakes = mistakes_between(asked, other);
    const bool near = mistakes * kBytesPerMistake <= std::max(asked.size(), other.size()) ||
                      one_begins_the_other(asked, other);
    if (!near || mistakes >= fewest) continue;
    nearest = candidate;
    fewest = mistakes;
  }
  return nearest;
}

std::string one_of(std::span<const std::string_view> words) {
  std::string result;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (i > 0) result += i + 1 == words.size() ? " or " : ", ";
    result += words[i];
  }
  return result;
}

}  // namespace tcpmux
