#include "core/server/toml_guard.h"

#include <algorithm>
#include <cstddef>
#include <string>

namespace tcpmux {
namespace {

// All of these return an offset from 0 to toml.size().

std::size_t line_end_from(std::string_view toml, std::size_t at) {
  return std::min(toml.find('\n', at), toml.size());
}

// `at` is behind the opening quote. A line end is an error there, and ends it too.
std::size_t skip_string(std::string_view toml, std::size_t at, char quote) {
  for (; at < toml.size() && toml[at] != '\n'; ++at) {
    if (toml[at] == quote) return at + 1;
    if (toml[at] == '\\' && quote == '"') ++at;
  }
  return std::min(at, toml.size());
}

// `at` is behind the three opening quotes.
std::size_t skip_long_string(std::string_view toml, std::size_t at, char quote) {
  const std::string end(3, quote);
  while (at < toml.size() && toml.substr(at, 3) != end)
    at += toml[at] == '\\' && quote == '"' ? 2 : 1;
  at = std::min(at + 3, toml.size());
  // Up to two quotes may stand before the three that end it.
  for (int more = 0; more < 2 && at < toml.size() && toml[at] == quote; ++more)
    ++at;
  return at;
}

std::size_t skip_quotes(std::string_view toml, std::size_t at) {
  const char quote = toml[at];
  const bool is_long = toml.substr(at, 3) == std::string(3, quote);
  return is_long ? skip_long_string(toml, at + 3, quote) : skip_string(toml, at + 1, quote);
}

// Columns count characters, not bytes, as those of the parser do.
Place place_at(std::string_view toml, std::size_t offset) {
  const std::string_view before = toml.substr(0, offset);
  const std::size_t line_start = before.rfind('\n') + 1;  // npos + 1 is 0
  const auto begins_character = [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  };
  const auto lines = std::count(before.begin(), before.end(), '\n');
  const auto characters = std::count_if(before.begin() + static_cast<std::ptrdiff_t>(line_start),
                                        before.end(), begins_character);
  return {static_cast<std::uint32_t>(lines + 1), static_cast<std::uint32_t>(characters + 1)};
}

}  // namespace

std::optional<Place> find_deep_key(std::string_view toml) {
  constexpr std::string_view kEndsAKey = "=,[]{}\n";
  int parts = 1;
  std::size_t key_start = 0;
  for (std::size_t at = 0; at < toml.size();) {
    const char c = toml[at];
    if (c == '#') {
      at = line_end_from(toml, at);
    } else if (c == '"' || c == '\'') {
      at = skip_quotes(toml, at);
    } else {
      ++at;
      if (c == '.' && ++parts > kKeyPartsMax) return place_at(toml, key_start);
      if (kEndsAKey.find(c) == std::string_view::npos) continue;
      parts = 1;
      key_start = at;
    }
  }
  return std::nullopt;
}

}  // namespace tcpmux
