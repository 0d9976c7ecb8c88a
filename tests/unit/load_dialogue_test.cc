// A connection's conversation without a connection: what it says, what it takes for an answer, and
// how it names each way to fail.
#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "tools/load/dialogue.h"

namespace load {
namespace {

using What = Step::What;

std::string text(std::span<const char> bytes) {
  return {bytes.begin(), bytes.end()};
}

std::span<const char> bytes_of(std::string_view bytes) {
  return bytes;
}

class LoadDialogue : public testing::Test {
 protected:
  void make(Kind kind, ScriptOptions options = {}) {
    script_ = std::make_unique<Script>(std::move(options));
    kind_ = kind;
    first_ = dialogue_.begin(*script_, kind, kNumber);
    step_ = first_;
  }
  // As far as the server's turn to speak.
  void open(Kind kind, ScriptOptions options = {}) {
    make(kind, std::move(options));
    step_ = dialogue_.on_connected();
    if (first_.what == What::kSendAndReceive) {
      EXPECT_EQ(step_.what, What::kWait);
      EXPECT_EQ(dialogue_.on_sent().what, What::kWait);
    }
  }
  Step hear(std::string_view bytes) { return step_ = dialogue_.on_received(bytes_of(bytes)); }
  // The same a byte at a time; gives the last step.
  Step hear_slowly(std::string_view bytes) {
    for (const char& byte : bytes) {
      hear({&byte, 1});
      if (step_.what == What::kFinish && &byte != &bytes.back())
        ADD_FAILURE() << "finished before the end of " << bytes;
    }
    return step_;
  }
  void expect_finished(const Step& step, Outcome outcome) {
    EXPECT_EQ(step.what, What::kFinish);
    EXPECT_EQ(to_string(step.outcome), to_string(outcome));
  }
  // Sends back what was said.
  Step echo(std::span<const char> said) {
    EXPECT_EQ(dialogue_.on_sent().what, What::kWait);
    return step_ = dialogue_.on_received(said);
  }

  static constexpr std::uint64_t kNumber = 12345;
  std::unique_ptr<Script> script_;
  Dialogue dialogue_;
  Kind kind_ = Kind::kHandshake;
  Step first_;
  Step step_;
};

// --- handshake ---

TEST_F(LoadDialogue, AHandshakeSaysItsLineWithConnectingAndWantsPlus) {
  open(Kind::kHandshake);
  EXPECT_EQ(first_.what, What::kSendAndReceive);
  EXPECT_EQ(text(first_.bytes), "echo\r\n");
  const Step step = hear_slowly("+echo ready\r\n");
  expect_finished(step, Outcome::kCompleted);
  EXPECT_TRUE(step.reply);
  EXPECT_EQ(dialogue_.reply(), "+echo ready");
}

TEST_F(LoadDialogue, BehindAHandshakesReplyMayBeWhatTheBackendSays) {
  open(Kind::kHandshake);
  expect_finished(hear("+\r\n12:00"), Outcome::kCompleted);
}

TEST_F(LoadDialogue, AnExactReplyIsComparedToTheLastByte) {
  for (const std::string_view wrong : {"+echo read\r\n", "+echo readyy\r\n", "+Echo ready\r\n"}) {
    open(Kind::kHandshake, {.expect = "+echo ready"});
    expect_finished(hear(wrong), Outcome::kWrongReply);
  }
  open(Kind::kHandshake, {.expect = "+echo ready"});
  expect_finished(hear("+echo ready\r\n"), Outcome::kCompleted);
  open(Kind::kHandshake, {.expect = "-unknown service"});
  expect_finished(hear("-unknown service\r\n"), Outcome::kCompleted);
}

TEST_F(LoadDialogue, MinusIsADenialAndItsTextIsKept) {
  open(Kind::kHandshake, {.expect = "+"});
  const Step step = hear_slowly("-busy\r\n");
  expect_finished(step, Outcome::kDenied);
  EXPECT_TRUE(step.reply);
  EXPECT_EQ(dialogue_.reply(), "-busy");
}

TEST_F(LoadDialogue, WhatIsNoReplyIsWrong) {
  for (const std::string_view wrong : {"\r\n", "echo\r\n", "+\n", "-\n", "\n"}) {
    open(Kind::kHandshake);
    expect_finished(hear_slowly(wrong), Outcome::kWrongReply);
  }
  open(Kind::kHandshake);
  expect_finished(hear("+" + std::string(Dialogue::kReplyBytesMax, 'x')), Outcome::kWrongReply);
}

TEST_F(LoadDialogue, AnEndBeforeTheReplysIsEarly) {
  for (const std::string_view begun : {"", "+", "+ready\r"}) {
    open(Kind::kHandshake);
    hear_slowly(begun);
    expect_finished(dialogue_.on_end(), Outcome::kClosedEarly);
  }
}

TEST_F(LoadDialogue, ErrorsHaveNames) {
  const auto outcome = [this](int error) {
    make(Kind::kHandshake);
    return dialogue_.on_error(error).outcome;
  };
  EXPECT_EQ(outcome(ECONNREFUSED), Outcome::kRefused);
  EXPECT_EQ(outcome(ECONNRESET), Outcome::kReset);
  EXPECT_EQ(outcome(EPIPE), Outcome::kReset);
  EXPECT_EQ(outcome(ETIMEDOUT), Outcome::kTimedOut);
  EXPECT_EQ(outcome(EADDRNOTAVAIL), Outcome::kLocal);
}

// --- session ---

TEST_F(LoadDialogue, ASessionEchoesItsMessages) {
  open(Kind::kSession, {.messages = 3, .message_bytes = 100});
  Step step = hear("+\r\n");
  std::string before;
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(step.what, What::kSendAndReceive);
    const std::string said = text(step.bytes);
    EXPECT_EQ(said.size(), 100u);
    EXPECT_NE(said, before) << "each message has bytes of its own";
    before = said;
    EXPECT_EQ(dialogue_.on_sent().what, What::kWait);
    const Step part = hear(std::string_view(said).substr(0, 40));
    EXPECT_EQ(part.what, What::kReceive);
    EXPECT_EQ(part.first_byte, i == 0);
    EXPECT_FALSE(part.message);
    step = hear(std::string_view(said).substr(40));
    EXPECT_TRUE(step.message);
    EXPECT_FALSE(step.first_byte);
  }
  expect_finished(step, Outcome::kCompleted);
}

TEST_F(LoadDialogue, AnEchoThatComesBeforeTheSendingIsToldIsAnEcho) {
  open(Kind::kSession, {.messages = 1});
  const std::string said = text(hear("+\r\n").bytes);
  EXPECT_EQ(hear(said).what, What::kWait);
  const Step step = dialogue_.on_sent();
  EXPECT_TRUE(step.message);
  expect_finished(step, Outcome::kCompleted);
}

TEST_F(LoadDialogue, AnEchoIsCheckedByteForByte) {
  for (const std::size_t place : {0u, 50u, 63u}) {
    open(Kind::kSession);
    std::string said = text(hear("+\r\n").bytes);
    said[place] = static_cast<char>(said[place] ^ 1);
    expect_finished(echo(bytes_of(said)), Outcome::kWrongReply);
  }
  open(Kind::kSession);
  std::string said = text(hear("+\r\n").bytes) + "x";
  expect_finished(echo(bytes_of(said)), Outcome::kWrongReply);
  open(Kind::kSession);
  expect_finished(hear("+\r\n?"), Outcome::kWrongReply);
}

TEST_F(LoadDialogue, AnEndInASessionIsAfterPlus) {
  open(Kind::kSession);
  hear("+\r\n");
  expect_finished(dialogue_.on_end(), Outcome::kClosedAfterPlus);
}

TEST_F(LoadDialogue, ASessionWithoutMessagesIsAHandshake) {
  open(Kind::kSession, {.messages = 0});
  expect_finished(hear("+\r\n"), Outcome::kCompleted);
}

TEST_F(LoadDialogue, ADirectSessionBeginsWithItsFirstMessage) {
  open(Kind::kSession, {.messages = 2, .direct = true});
  EXPECT_EQ(first_.bytes.size(), 64u);
  step_ = dialogue_.on_received(first_.bytes);
  EXPECT_TRUE(step_.first_byte);
  EXPECT_TRUE(step_.message);
  EXPECT_FALSE(step_.reply);
  expect_finished(echo(step_.bytes), Outcome::kCompleted);
  open(Kind::kSession, {.direct = true});
  expect_finished(dialogue_.on_end(), Outcome::kClosedEarly);
}

TEST_F(LoadDialogue, ADirectHandshakeOnlyConnects) {
  make(Kind::kHandshake, {.direct = true});
  EXPECT_EQ(first_.what, What::kWait);
  expect_finished(dialogue_.on_connected(), Outcome::kCompleted);
}

// --- early ---

TEST_F(LoadDialogue, EarlyBytesComeBackBehindTheReply) {
  open(Kind::kEarly, {.message_bytes = 20});
  const std::string said = text(first_.bytes);
  ASSERT_EQ(said.substr(0, 6), "echo\r\n");
  const std::string payload = said.substr(6);
  ASSERT_EQ(payload.size(), 20u);
  // All at once.
  const Step step = hear("+\r\n" + payload);
  expect_finished(step, Outcome::kCompleted);
  EXPECT_TRUE(step.reply);
  EXPECT_TRUE(step.first_byte);
  EXPECT_TRUE(step.message);
  // A byte at a time.
  open(Kind::kEarly, {.message_bytes = 20});
  expect_finished(hear_slowly("+ready\r\n" + payload), Outcome::kCompleted);
  // Lost by the mux.
  open(Kind::kEarly, {.message_bytes = 20});
  hear("+\r\n");
  expect_finished(dialogue_.on_end(), Outcome::kClosedAfterPlus);
}

// --- unknown, HELP ---

TEST_F(LoadDialogue, AnUnknownNameWantsMinusAndTheEnd) {
  open(Kind::kUnknown);
  EXPECT_TRUE(text(first_.bytes).starts_with("nobody-"));
  EXPECT_TRUE(text(first_.bytes).ends_with("\r\n"));
  const Step step = hear("-unknown service\r\n");
  EXPECT_EQ(step.what, What::kReceive);
  EXPECT_TRUE(step.reply);
  expect_finished(dialogue_.on_end(), Outcome::kCompleted);
}

TEST_F(LoadDialogue, AnUnknownNameThatIsServedIsWrong) {
  open(Kind::kUnknown);
  expect_finished(hear("+\r\n"), Outcome::kWrongReply);
  open(Kind::kUnknown);
  expect_finished(hear("-no\r\nmore"), Outcome::kWrongReply);
  open(Kind::kUnknown);
  hear("-no\r\n");
  expect_finished(hear("more"), Outcome::kWrongReply);
}

TEST_F(LoadDialogue, UnknownNamesDiffer) {
  open(Kind::kUnknown);
  const std::string name = text(first_.bytes);
  Dialogue other;
  EXPECT_NE(text(other.begin(*script_, Kind::kUnknown, kNumber + 1).bytes), name);
}

TEST_F(LoadDialogue, HelpWantsNamesAndTheEnd) {
  open(Kind::kHelp);
  EXPECT_EQ(text(first_.bytes), "HELP\r\n");
  EXPECT_EQ(hear_slowly("chat\r\necho\r\n").what, What::kReceive);
  expect_finished(dialogue_.on_end(), Outcome::kCompleted);
  open(Kind::kHelp);
  EXPECT_TRUE(hear("chat\r\necho\r\n").reply);
  expect_finished(dialogue_.on_end(), Outcome::kCompleted);
}

TEST_F(LoadDialogue, WhatIsNoListOfNamesIsWrong) {
  for (const std::string_view wrong :
       {"\r\n", "a b\r\n", "a\r\n\r\n", "a\rb\r\n", "a\r\nb\x7f\r\n"}) {
    open(Kind::kHelp);
    expect_finished(hear(wrong), Outcome::kWrongReply);
  }
  open(Kind::kHelp);
  expect_finished(hear(std::string(256, 'a')), Outcome::kWrongReply);
  open(Kind::kHelp);
  expect_finished(hear("-unknown service\r\n"), Outcome::kDenied);
  open(Kind::kHelp);
  expect_finished(hear("+ok\r\n"), Outcome::kWrongReply);
  for (const std::string_view begun : {"", "a", "a\r", "a\r\nb"}) {
    open(Kind::kHelp);
    if (!begun.empty()) hear(begun);
    expect_finished(dialogue_.on_end(), Outcome::kClosedEarly);
  }
}

// --- trickle, half, silent ---

TEST_F(LoadDialogue, ATrickleSaysAByteAtATime) {
  make(Kind::kTrickle);
  EXPECT_EQ(first_.what, What::kWait);
  std::string said;
  for (step_ = dialogue_.on_connected(); step_.what == What::kSend; step_ = dialogue_.on_sent()) {
    EXPECT_EQ(step_.bytes.size(), 1u);
    said += step_.bytes[0];
  }
  ASSERT_EQ(step_.what, What::kSendAndReceive);
  said += text(step_.bytes);
  EXPECT_EQ(said, "echo\r\n");
  EXPECT_EQ(dialogue_.on_sent().what, What::kWait);
  expect_finished(hear("+\r\n"), Outcome::kCompleted);
}

TEST_F(LoadDialogue, HalfALineAndSilenceWaitForTheEnd) {
  for (const Kind kind : {Kind::kHalf, Kind::kSilent}) {
    open(kind);
    EXPECT_EQ(text(first_.bytes), kind == Kind::kHalf ? "ec" : "");
    EXPECT_TRUE(dialogue_.is_waiting());
    expect_finished(dialogue_.on_end(), Outcome::kCompleted);
    // A server may say why.
    open(kind);
    EXPECT_EQ(hear("-too slow\r\n").what, What::kReceive);
    expect_finished(dialogue_.on_end(), Outcome::kCompleted);
    open(kind);
    expect_finished(hear("+\r\n"), Outcome::kWrongReply);
    open(kind);
    hear("-too");
    expect_finished(dialogue_.on_end(), Outcome::kClosedEarly);
  }
}

TEST_F(LoadDialogue, WhoIsHeldMustNotEnd) {
  open(Kind::kHalf, {.hold = true});
  expect_finished(dialogue_.on_end(), Outcome::kClosedEarly);
  open(Kind::kHalf, {.hold = true});
  expect_finished(hear("-busy\r\n"), Outcome::kDenied);
}

TEST_F(LoadDialogue, HalfOfANameIsNeverAllOfTheLine) {
  for (const char* service : {"a", "ab", "abc"}) {
    make(Kind::kHalf, {.service = service});
    EXPECT_FALSE(first_.bytes.empty());
    EXPECT_EQ(text(first_.bytes).find('\r'), std::string::npos);
  }
}

}  // namespace
}  // namespace load
