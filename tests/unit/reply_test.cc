// The reasons behind '-', as RFC 1078 wants them: the character, a message, CRLF, one line.
#include "core/mux/reply.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>

namespace tcpmux {
namespace {

Refusal refusal_at(int i) {
  return static_cast<Refusal>(i);
}

TEST(Reply, EachRefusalIsOneLine) {
  for (int i = 0; i < kRefusalCount; ++i) {
    const std::string_view reply = refusal_reply(refusal_at(i));
    EXPECT_TRUE(reply.starts_with('-')) << reply;
    EXPECT_TRUE(reply.ends_with("\r\n")) << reply;
    const std::string_view reason = reply.substr(1, reply.size() - 3);
    EXPECT_FALSE(reason.empty()) << i;
    EXPECT_TRUE(
        std::all_of(reason.begin(), reason.end(), [](char c) { return c >= ' ' && c <= '~'; }))
        << "printable, and no second line: " << reason;
    EXPECT_EQ(refusal_reason(refusal_at(i)), reason);
  }
}

TEST(Reply, EachRefusalIsToldFromTheOthers) {
  std::set<std::string_view> replies;
  std::set<std::string_view> words;
  for (int i = 0; i < kRefusalCount; ++i) {
    replies.insert(refusal_reply(refusal_at(i)));
    const std::string_view word = refusal_word(refusal_at(i));
    words.insert(word);
    EXPECT_TRUE(std::all_of(word.begin(), word.end(),
                            [](char c) { return (c >= 'a' && c <= 'z') || c == '_'; }))
        << "a name for a counter: " << word;
  }
  EXPECT_EQ(replies.size(), static_cast<std::size_t>(kRefusalCount));
  EXPECT_EQ(words.size(), static_cast<std::size_t>(kRefusalCount));
  EXPECT_FALSE(words.contains("other"));
}

// What clients and their scripts look for; to change one of these is to break them.
TEST(Reply, TheWordsThatClientsKnow) {
  EXPECT_EQ(refusal_reply(Refusal::kUnknown), "-unknown service\r\n");
  EXPECT_EQ(refusal_reply(Refusal::kInvalid), "-invalid service name\r\n");
  EXPECT_EQ(refusal_reply(Refusal::kTooLong), "-too long for a service name\r\n");
  EXPECT_EQ(refusal_reply(Refusal::kDenied), "-denied to your address\r\n");
  EXPECT_EQ(refusal_reply(Refusal::kUnavailable), "-unavailable, no backend at the moment\r\n");
  EXPECT_EQ(refusal_reply(Refusal::kBusy), "-busy, try again\r\n");
  EXPECT_EQ(refusal_reply(Refusal::kShuttingDown), "-shutting down\r\n");
}

}  // namespace
}  // namespace tcpmux
