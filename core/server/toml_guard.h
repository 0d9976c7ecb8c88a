// toml++ takes a step of recursion for each part of a dotted key, without a bound before its pull
// request 242, so a key of some 100,000 parts overflows the stack. What is deeper than any key of
// ours could be is found here, before that parser sees it.
#pragma once

#include <optional>
#include <string_view>

#include "core/server/complaints.h"

namespace tcpmux {

inline constexpr int kKeyPartsMax = 16;

// Where the first key of more than kKeyPartsMax parts stands. `toml` may be any bytes: up to its
// first syntax error, at which the parser ends, it is divided as the parser divides it.
std::optional<Place> find_deep_key(std::string_view toml);

}  // namespace tcpmux
