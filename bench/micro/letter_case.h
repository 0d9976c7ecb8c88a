// Ways to fold ASCII case, to compare names without case, and to hash them. One of each is
// core/mux/service_table.cc's (its hash is FNV-1a with a finish); the others are what it could have
// been.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace bench {

struct FoldByRange {
  char operator()(char c) const {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
};

struct FoldByTable {
  static constexpr std::array<char, 256> kFolded = [] {
    std::array<char, 256> folded{};
    for (int c = 0; c < 256; ++c)
      folded[static_cast<std::size_t>(c)] = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
    return folded;
  }();
  char operator()(char c) const { return kFolded[static_cast<unsigned char>(c)]; }
};

// Without a comparison that could become a branch: bit 0x20 is set exactly for the 26 letters.
struct FoldByArithmetic {
  char operator()(char c) const {
    const auto distance = static_cast<unsigned char>(c - 'A');
    return static_cast<char>(c | ((distance < 26) << 5));
  }
};

// True exactly when they differ in case only.
bool same_name_by_range(std::string_view a, std::string_view b);
bool same_name_by_table(std::string_view a, std::string_view b);
bool same_name_by_arithmetic(std::string_view a, std::string_view b);
bool same_name_by_word(std::string_view a, std::string_view b);  // eight bytes at a time

// The same for names that differ in case only.
std::uint32_t hash_by_range(std::string_view name);
std::uint32_t hash_by_table(std::string_view name);
std::uint32_t hash_by_arithmetic(std::string_view name);
std::uint32_t hash_by_word(std::string_view name);  // eight bytes at a time, another function

}  // namespace bench
