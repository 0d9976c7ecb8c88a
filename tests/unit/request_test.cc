// The request line, split in every way in which it may arrive, against a reference that sees it
// whole: what it is, what its name is, and that not one byte behind it is taken.
#include "core/mux/request.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "tests/unit/request_reference.h"

namespace tcpmux {
namespace {

using namespace std::string_literals;
using namespace std::string_view_literals;

constexpr std::size_t kUsualMax = 512;

std::string shown(std::string_view input) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  std::string text;
  for (const char c : input.substr(0, 80)) {
    const auto byte = static_cast<std::uint8_t>(c);
    if (c >= ' ' && c <= '~')
      text += c;
    else
      text += "\\x"s + kHex[byte >> 4] + kHex[byte & 15];
  }
  return text + (input.size() > 80 ? "... (" + std::to_string(input.size()) + " bytes)" : "");
}

class Checker {
 public:
  Checker(std::string_view input, std::size_t line_bytes_max)
      : input_(input),
        line_bytes_max_(line_bytes_max),
        expected_(judged_at_once(input, line_bytes_max)) {}

  // The parser is used again and again, as the slot that it lives in is.
  void check(const std::vector<std::size_t>& cuts) {
    line_.clear();
    const char* wrong = nullptr;
    const LineOutcome outcome = judged_in_pieces(line_, input_, cuts, line_bytes_max_, wrong);
    if (wrong == nullptr && outcome == expected_) return;
    std::string at;
    for (const std::size_t cut : cuts)
      at += " " + std::to_string(cut);
    ADD_FAILURE() << "'" << shown(input_) << "', a line of at most " << line_bytes_max_
                  << ", arrived up to" << at << ": "
                  << (wrong != nullptr ? "broken: "s + wrong : "another outcome") << "; status "
                  << static_cast<int>(outcome.status) << " instead of "
                  << static_cast<int>(expected_.status) << ", taken " << outcome.taken
                  << " instead of " << expected_.taken;
  }

  void check_every_split() {
    const std::size_t places = input_.empty() ? 0 : input_.size() - 1;
    std::vector<std::size_t> cuts;
    for (std::uint64_t mask = 0; mask < std::uint64_t{1} << places; ++mask) {
      cuts.clear();
      for (std::size_t i = 0; i < places; ++i)
        if (((mask >> i) & 1) != 0) cuts.push_back(i + 1);
      check(cuts);
    }
  }

  void check_splits_in_three() {
    check({});
    for (std::size_t first = 1; first < input_.size(); ++first) {
      check({first});
      for (std::size_t second = first + 1; second < input_.size(); ++second)
        check({first, second});
    }
    check_byte_by_byte();
  }

  void check_byte_by_byte() {
    std::vector<std::size_t> cuts(input_.size());
    std::iota(cuts.begin(), cuts.end(), std::size_t{1});
    check(cuts);
  }

 private:
  std::string input_;
  std::size_t line_bytes_max_;
  LineOutcome expected_;
  RequestLine line_;
};

const std::vector<std::string> kShortInputs = {
    "",
    "\n",
    "\r\n",
    "\r",
    "\r\r\n",
    "echo\n",
    "echo\r\n",
    "echo",
    "echo\r",
    "a\r\nb\r\n",
    "echo\r\n\r\n",
    "echo\nGET /",
    "ab\rcd\r\n",
    "ab\r\r\n",
    "\rab\r\n",
    "a\0b\r\n"s,
    "\0\r\n"s,
    "echo\r\n\0\0"s,
    "\xC3\xA9t\r\n",
    "a\xFFz\n",
    "a\x7Fz\r\n",
    "a b\r\n",
    " echo\r\n",
    "echo \r\n",
    "\techo\r\n",
    "!~\r\n",
    "HELP\r\n",
    "+\r\n-\r\n",
    "\n\n\n\n",
};

TEST(RequestLine, ShortLinesInEverySplit) {
  for (const std::string& input : kShortInputs)
    Checker(input, kUsualMax).check_every_split();
}

TEST(RequestLine, AnyThreeBytesInEverySplit) {
  constexpr std::string_view kBytes = "a~\r\n \0\x80"sv;
  for (const char a : kBytes)
    for (const char b : kBytes)
      for (const char c : kBytes)
        for (const std::size_t line_bytes_max : {1U, 2U, 3U, 4U, 512U})
          Checker(std::string{a, b, c, 'z', '\n'}, line_bytes_max).check_every_split();
}

TEST(RequestLine, SmallestBoundInEverySplit) {
  constexpr std::size_t kMax = 16;
  for (std::size_t length = kMax - 2; length <= kMax + 1; ++length) {
    for (const std::string_view end : {"\n"sv, "\r\n"sv, "\r"sv, ""sv}) {
      std::string input = std::string(length, 'n') + std::string(end);
      if (input.size() <= kMax + 1) Checker(input, kMax).check_every_split();
    }
  }
}

TEST(RequestLine, NamesOfTheLongestLength) {
  for (const std::size_t length : {254U, 255U, 256U, 257U, 258U, 259U}) {
    for (const std::string_view end : {"\n"sv, "\r\n"sv, "\r\r\n"sv, "\r"sv, "\r\nbehind it"sv}) {
      Checker checker(std::string(length, 'n') + std::string(end), kUsualMax);
      checker.check_splits_in_three();
    }
  }
}

TEST(RequestLine, ALongNameWithAByteThatNoNameHas) {
  for (const std::size_t place : {0U, 100U, 254U}) {
    std::string input = std::string(255, 'n') + "\r\n";
    input[place] = '\x01';
    Checker(input, kUsualMax).check_splits_in_three();
  }
  Checker(std::string(300, ' ') + "\r\n", kUsualMax).check_splits_in_three();
}

TEST(RequestLine, LinesOfTheGreatestLength) {
  for (const std::size_t length : {510U, 511U, 513U}) {
    for (const std::string_view end : {""sv, "\r\n"sv})
      Checker(std::string(length, 'n') + std::string(end), kUsualMax).check_splits_in_three();
  }
}

TEST(RequestLine, BoundsAroundTheBuffersSize) {
  for (const std::size_t line_bytes_max : {255U, 256U, 257U, 258U, 259U, 513U, 514U, 515U}) {
    for (const std::size_t length : {252U, 254U, 255U, 256U, 257U, 512U, 513U, 514U, 515U}) {
      const std::string name(length, 'n');
      for (const std::string& input : {name, name + "\n", name + "\r\n", name + "\r\nbehind"}) {
        Checker checker(input, line_bytes_max);
        checker.check({});
        checker.check_byte_by_byte();
        for (std::size_t cut = 1; cut < input.size(); ++cut)
          checker.check({cut});
      }
    }
  }
}

TEST(RequestLine, WhatStandsBehindIsNotTaken) {
  const std::string behind = "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n" + std::string(600, '\n');
  Checker("echo" + behind, kUsualMax).check_splits_in_three();
  Checker("echo" + behind, 16).check_splits_in_three();
}

TEST(RequestLine, ALineThatHasBecomeTooLongIsNotAskedForMore) {
  RequestLine line;
  line.clear();
  std::size_t take = 0;
  std::fill_n(line.room(16).begin(), 16, 'n');
  ASSERT_EQ(line.scan(16, 16, take), LineStatus::kTooLong);
  EXPECT_DEATH(line.room(16), "a line that is too long has ended");
}

TEST(RequestLine, ANameIsForgotten) {
  RequestLine line;
  line.clear();
  std::size_t take = 0;
  const std::string_view input = "echo\n";
  std::copy(input.begin(), input.end(), line.room(kUsualMax).begin());
  ASSERT_EQ(line.scan(input.size(), kUsualMax, take), LineStatus::kName);
  EXPECT_EQ(line.name(), "echo");
  line.clear();
  EXPECT_EQ(line.name(), "");
}

TEST(IsHelp, InAnyCaseAndNothingElse) {
  const std::string_view lower = "help";
  for (int mask = 0; mask < 16; ++mask) {
    std::string name(lower);
    for (std::size_t i = 0; i < name.size(); ++i)
      if (((mask >> i) & 1) != 0) name[i] = static_cast<char>(name[i] - 0x20);
    EXPECT_TRUE(is_help(name)) << name;
  }
  for (const std::string& other : {""s, "h"s, "hel"s, "helpp"s, "help "s, "h\0lp"s, "heip"s})
    EXPECT_FALSE(is_help(other)) << other;
  // Every byte in every place: only the letter itself, in either case.
  for (std::size_t place = 0; place < lower.size(); ++place) {
    for (int byte = 0; byte < 256; ++byte) {
      std::string name(lower);
      name[place] = static_cast<char>(byte);
      const bool same = byte == lower[place] || byte == lower[place] - 0x20;
      EXPECT_EQ(is_help(name), same) << "byte " << byte << " in place " << place;
    }
  }
}

}  // namespace
}  // namespace tcpmux
