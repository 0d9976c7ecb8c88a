// Keys too deep for the TOML parser are found before it sees them; and what is suggested for words
// that nobody knows.
#include "core/server/toml_guard.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "core/server/spelling.h"
#include "tests/unit/config_support.h"

namespace tcpmux {
namespace {

TEST(ConfigRefuses, DepthThatWouldOverflowTheParsersStack) {
  const auto repeated = [](std::string_view text, int count) {
    std::string result;
    for (int i = 0; i < count; ++i)
      result += text;
    return result;
  };
  const int many = 300'000;
  expect_refused({"\na" + repeated(".a", many) + " = 1", "2:1", {"more than 16 parts"}});
  expect_refused({"[a" + repeated(" . 'a'", many) + "]", "1:2", {"more than 16 parts"}});
  expect_refused({"x = {ä = 1, a" + repeated(".a", many) + " = 1}", "1:12", {"16 parts"}});
  EXPECT_NE(error_in("a = " + repeated("[", many)).find("test.toml:1:"), std::string::npos);
  EXPECT_NE(error_in("a = " + repeated("{a=", many)).find("test.toml:1:"), std::string::npos);
}

TEST(FindDeepKey, SeesKeysAndNotStrings) {
  const std::string dots(40, '.');
  EXPECT_EQ(find_deep_key("a.b.c.d = 1.5"), std::nullopt);
  EXPECT_EQ(find_deep_key("a = '" + dots + "' # " + dots + "\n# " + dots), std::nullopt);
  EXPECT_EQ(find_deep_key("a = \"\\\"" + dots + "\""), std::nullopt);
  EXPECT_EQ(find_deep_key("a = '''\n'" + dots + "''\n" + dots + "'''"), std::nullopt);
  EXPECT_EQ(find_deep_key("a = \"\"\"\\\"\"\"" + dots + "\"\"\""), std::nullopt);
  EXPECT_EQ(find_deep_key("a = [" + std::string("1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, "
                                                "1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5]")),
            std::nullopt);
  for (const char* before : {"", "a = '''b''''' #\n", "a = \"\"\"b\"\"\"\"\nc = 1\n", "a = '\\'\n",
                             "a = \"\"\n", "a = 'unclosed\n", "# '\n", "a = [\"\\\\\"]\n"}) {
    const auto place = find_deep_key(before + dots);
    ASSERT_TRUE(place.has_value()) << before;
    EXPECT_EQ(place->column, 1u) << before;
  }
  // Five quotes: two of the text and three that end it, so what follows is no string.
  EXPECT_NE(find_deep_key("x = {a = '''b''''', " + dots), std::nullopt);
  EXPECT_NE(find_deep_key("x = {a = \"\"\"b\"\"\"\"\", " + dots), std::nullopt);
  for (const char* unclosed : {"'", "\"", "'''", "\"\"\"", "\"\\", "\"\"\"\\", "\"\"\"\"", "#"})
    EXPECT_EQ(find_deep_key(unclosed), std::nullopt) << unclosed;
  EXPECT_EQ(find_deep_key("a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p = 1"), std::nullopt) << "16 parts";
  EXPECT_NE(find_deep_key("a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q = 1"), std::nullopt) << "17 parts";
}

TEST(Spelling, FindsTheNearestWord) {
  const std::vector<std::string_view> known = {"deadline_ms", "line_bytes_max", "open", "path"};
  EXPECT_EQ(nearest_word("deadline", known), "deadline_ms");
  EXPECT_EQ(nearest_word("DEADLINE-MS", known), "deadline_ms");
  EXPECT_EQ(nearest_word("line_byte_max", known), "line_bytes_max");
  EXPECT_EQ(nearest_word("opne", known), "open") << "two swapped are one mistake";
  EXPECT_EQ(nearest_word("pat", known), "path");
  for (const char* far : {"", "x", "zzzz", "openness_of_all_things", "users"})
    EXPECT_EQ(nearest_word(far, {known.data(), 3}),
              far == std::string("openness_of_all_things") ? "open" : "")
        << far;
  EXPECT_EQ(nearest_word(std::string(100'000, 'o'), known), "");
  EXPECT_EQ(nearest_word("open", {}), "");
}

}  // namespace
}  // namespace tcpmux
