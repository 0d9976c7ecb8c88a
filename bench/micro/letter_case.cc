#include "bench/micro/letter_case.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace bench {
namespace {

template <class Fold>
bool same_name(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return Fold()(x) == Fold()(y); });
}

template <class Fold>
std::uint32_t hash(std::string_view name) {
  std::uint32_t hash = 0x811C9DC5;
  for (const char c : name)
    hash = (hash ^ static_cast<unsigned char>(Fold()(c))) * 0x01000193;
  hash = (hash ^ (hash >> 16)) * 0x85EBCA6B;
  hash = (hash ^ (hash >> 13)) * 0xC2B2AE35;
  return hash ^ (hash >> 16);
}

constexpr std::uint64_t repeated(std::uint8_t byte) {
  return 0x0101010101010101 * std::uint64_t{byte};
}

// Eight bytes at once. Seven bits of each are added to, so no carry leaves its byte: bit 7 then
// says "at least 'A'" and "above 'Z'". Bytes from 0x80 on are no letters.
std::uint64_t fold_word(std::uint64_t word) {
  const std::uint64_t low = word & repeated(0x7F);
  const std::uint64_t from_a = low + repeated(0x80 - 'A');
  const std::uint64_t above_z = low + repeated(0x7F - 'Z');
  const std::uint64_t letter = (from_a ^ above_z) & ~word & repeated(0x80);
  return word | (letter >> 2);
}

std::uint64_t folded_at(std::string_view name, std::size_t at) {
  std::uint64_t word;
  std::memcpy(&word, name.data() + at, sizeof word);
  return fold_word(word);
}

// All of a name of less than eight bytes; zeros stand behind it. A copy of unknown length is a
// call, so short names, which are the usual ones, lose by it what long ones win.
std::uint64_t folded_short(std::string_view name) {
  std::uint64_t word = 0;
  std::memcpy(&word, name.data(), name.size());
  return fold_word(word);
}

}  // namespace

bool same_name_by_range(std::string_view a, std::string_view b) {
  return same_name<FoldByRange>(a, b);
}
bool same_name_by_table(std::string_view a, std::string_view b) {
  return same_name<FoldByTable>(a, b);
}
bool same_name_by_arithmetic(std::string_view a, std::string_view b) {
  return same_name<FoldByArithmetic>(a, b);
}
// Of a longer name the last eight bytes may be looked at twice, in part.
bool same_name_by_word(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  if (a.size() < 8) return folded_short(a) == folded_short(b);
  for (std::size_t at = 0; at + 8 < a.size(); at += 8)
    if (folded_at(a, at) != folded_at(b, at)) return false;
  return folded_at(a, a.size() - 8) == folded_at(b, b.size() - 8);
}

std::uint32_t hash_by_range(std::string_view name) {
  return hash<FoldByRange>(name);
}
std::uint32_t hash_by_table(std::string_view name) {
  return hash<FoldByTable>(name);
}
std::uint32_t hash_by_arithmetic(std::string_view name) {
  return hash<FoldByArithmetic>(name);
}
std::uint32_t hash_by_word(std::string_view name) {
  std::uint64_t hash = name.size();
  const auto mix = [&](std::uint64_t word) {
    hash = std::rotl((hash ^ word) * 0x9E3779B97F4A7C15, 29);
  };
  if (name.size() >= 8) {
    for (std::size_t at = 0; at + 8 < name.size(); at += 8)
      mix(folded_at(name, at));
    mix(folded_at(name, name.size() - 8));
  } else {
    mix(folded_short(name));
  }
  hash = (hash ^ (hash >> 33)) * 0xFF51AFD7ED558CCD;
  return static_cast<std::uint32_t>(hash ^ (hash >> 33));
}

}  // namespace bench
