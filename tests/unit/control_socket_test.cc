// The control socket: who may speak, what a request and its reply look like, and that neither a
// silent, nor a greedy, nor a vanished client harms anything.
#include "core/server/control_socket.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/unit/control_fixture.h"

namespace tcpmux {
namespace {

// ---- Requests and replies

TEST_F(ControlSocketTest, AnswersEachLineInItsOrder) {
  serve();
  Client client(path_);
  for (const int number : {1, 2, 3}) {
    client.send(json{{"command", "echo"}, {"number", number}}.dump() + "\n");
    const json reply = client.reply();
    EXPECT_EQ(reply["ok"], true);
    EXPECT_EQ(reply["request"]["number"], number);
  }
  client.send("{\"command\":\"echo\",\"number\":4}\r\n{\"command\":\"echo\",\"number\":5}\n{\"com");
  EXPECT_EQ(client.reply()["request"]["number"], 4);
  EXPECT_EQ(client.reply()["request"]["number"], 5);
  client.send("mand\":\"echo\",\"number\":6}");  // without a line end
  client.half_close();
  EXPECT_EQ(client.reply()["request"]["number"], 6);
  EXPECT_EQ(client.line(), std::nullopt) << "it ends when the client has";
}

TEST_F(ControlSocketTest, WhatIsNoRequestIsSaidAndTheConnectionGoesOn) {
  serve();
  Client client(path_);
  for (const char* line : {"", "status", "{", "[]", "3", "null", "{}", "{\"command\":3}",
                           "{\"command\":\"echo\"} {}", "\xFF\xFE"}) {
    ASSERT_TRUE(client.send(std::string(line) + "\n"));
    EXPECT_NE(refusal(client.reply()).find("one JSON object on one line"), std::string::npos)
        << line;
  }
  client.send(std::string(1, '\0') + "\n");
  EXPECT_NE(refusal(client.reply()), "");
  client.send(std::string(60'000, '[') + "\n");
  EXPECT_NE(refusal(client.reply()), "");
  EXPECT_EQ(client.ask("echo")["ok"], true);
}

TEST_F(ControlSocketTest, AnUnknownCommandIsToldWhichThereAre) {
  serve();
  Client client(path_);
  EXPECT_EQ(refusal(client.ask("ecco")),
            "there is no command 'ecco'; there are: bytes, count, echo, large, later, now");
  EXPECT_LT(refusal(client.ask(std::string(10'000, 'x'))).size(), 200U) << "it is cut";
}

TEST_F(ControlSocketTest, TheLongestRequest) {
  serve();
  Client client(path_);
  const std::string head = "{\"command\":\"echo\",\"pad\":\"";
  const auto request = [&](std::size_t bytes) {
    return head + std::string(bytes - head.size() - 3, 'p') + "\"}\n";
  };
  client.send(request(kControlRequestBytesMax));
  EXPECT_EQ(client.reply()["ok"], true);
  client.send(request(kControlRequestBytesMax + 1));
  EXPECT_NE(refusal(client.reply()).find("at most 65536 bytes"), std::string::npos);
  EXPECT_EQ(client.line(), std::nullopt);

  Client endless(path_);
  const std::string part(1 << 20, 'x');
  while (endless.send(part)) {  // until it is shut out
  }
}

TEST_F(ControlSocketTest, AReplyOfAnyLengthArrivesWhole) {
  serve();
  Client client(path_);
  client.send("{\"command\":\"large\"}\n{\"command\":\"echo\",\"number\":7}\n");
  EXPECT_EQ(client.reply()["text"].get<std::string>().size(), Served::kLargeBytes);
  EXPECT_EQ(client.reply()["request"]["number"], 7);
}

TEST_F(ControlSocketTest, TextThatIsNoUtf8IsMended) {
  serve();
  EXPECT_EQ(Client(path_).ask("bytes")["text"], "\xEF\xBF\xBD\xEF\xBF\xBD");
}

// ---- Replies that take their time

TEST_F(ControlSocketTest, AReplyMayComeLater) {
  serve(kHasty_ns);
  Client patient(path_);
  patient.send("{\"command\":\"later\"}\n{\"command\":\"echo\",\"number\":1}\n");
  patient.half_close();  // it has said all that it wants, and waits
  // Longer than the patience, which a silent client's end shows to have passed.
  await_held(1);
  EXPECT_NE(refusal(Client(path_).reply()), "");
  EXPECT_EQ(Client(path_).ask("now")["held"], 1);
  EXPECT_EQ(patient.reply()["late"], true);
  EXPECT_EQ(patient.reply()["request"]["number"], 1) << "what came meanwhile is not lost";
  EXPECT_EQ(patient.line(), std::nullopt);
}

TEST_F(ControlSocketTest, AClientThatLeavesBeforeItsReplyHarmsNothing) {
  serve();
  {
    Client client(path_);
    client.send("{\"command\":\"later\"}\n");
    await_held(1);
  }
  Client other(path_);
  EXPECT_EQ(other.ask("now")["held"], 1);
  EXPECT_EQ(other.ask("echo")["ok"], true);
}

TEST_F(ControlSocketTest, ManyThatLeaveAtOnceLeaveRoom) {
  serve();
  for (int i = 0; i < 100; ++i) {
    Client client(path_);
    ASSERT_TRUE(client.connected());
    client.send(i % 5 != 0 ? "{\"command\":\"later\"}\n" : "{\"command\":\"large\"}\n");
  }
  EXPECT_EQ(admitted().ask("now")["ok"], true);
}

TEST_F(ControlSocketTest, AReplyToASocketThatIsGoneIsDropped) {
  Served& served = serve();
  Client client(path_);
  client.send("{\"command\":\"later\"}\n");
  await_held(1);
  served.stop();
  ASSERT_EQ(served.held().size(), 1U);
  for (const ControlReply& reply : served.held())
    reply.send({{"ok", true}});
  EXPECT_EQ(client.line(), std::nullopt);
}

// What comes while a request waits stays with the kernel, so that memory is bounded: a client can
// send no more than the kernel's queue and our buffer hold, however often the loop turns.
TEST_F(ControlSocketTest, AFloodBehindARequestThatWaitsIsHeldBack) {
  serve();
  Client client(path_);
  client.send("{\"command\":\"later\"}\n");
  await_held(1);
  Client other(path_);
  const std::string line = "{\"command\":\"echo\",\"pad\":\"" + std::string(1000, 'p') + "\"}\n";
  std::size_t bytes = 0;
  for (int turn = 0; turn < 200; ++turn) {
    while (const std::size_t taken = client.send_what_is_taken(line.substr(bytes % line.size())))
      bytes += taken;
    ASSERT_EQ(other.ask("count")["held"], 1);
  }
  EXPECT_LT(bytes, 1'000'000U);
  EXPECT_EQ(other.ask("now")["held"], 1);
  EXPECT_EQ(client.reply()["late"], true);
  for (std::size_t i = 0; i < bytes / line.size(); ++i)
    ASSERT_EQ(client.reply()["ok"], true) << i;
  client.send(line.substr(bytes % line.size()));
  EXPECT_EQ(client.reply()["ok"], true);
}

// ---- Bounds

TEST_F(ControlSocketTest, NoMoreConnectionsThanAreAllowed) {
  serve();
  std::vector<Client> clients;
  for (std::uint32_t i = 0; i < kControlConnectionsMax; ++i) {
    clients.emplace_back(path_);
    ASSERT_EQ(clients.back().ask("echo")["ok"], true);
  }
  Client one_more(path_);
  EXPECT_NE(refusal(one_more.reply()).find("16 connections"), std::string::npos);
  EXPECT_EQ(one_more.line(), std::nullopt);
  clients.front().leave();
  admitted();
}

TEST_F(ControlSocketTest, ASilentClientIsSentAway) {
  serve(kHasty_ns);
  Client silent(path_);
  EXPECT_EQ(refusal(silent.reply()), "no request came in time");
  EXPECT_EQ(silent.line(), std::nullopt);

  Client half(path_);
  half.send("{\"command\":");
  EXPECT_EQ(refusal(half.reply()), "no request came in time");

  Client after_one(path_);
  EXPECT_EQ(after_one.ask("echo")["ok"], true);
  EXPECT_EQ(refusal(after_one.reply()), "no request came in time");
}

TEST_F(ControlSocketTest, AClientThatDoesNotReadIsSentAway) {
  serve(kHasty_ns);
  Client client(path_);
  client.send("{\"command\":\"large\"}\n");
  EXPECT_TRUE(client.wait_for_the_end());
  EXPECT_EQ(client.line(), std::nullopt) << "the reply was cut off";
}

// ---- Who may speak

TEST_F(ControlSocketTest, TheFileIsTheOwnersAlone) {
  const mode_t before = ::umask(0);
  serve();
  ::umask(before);
  struct stat found{};
  ASSERT_EQ(::lstat(path_.c_str(), &found), 0);
  EXPECT_TRUE(S_ISSOCK(found.st_mode));
  EXPECT_EQ(found.st_mode & 07777, 0600U);
}

// As `uid`, on a thread of its own: the raw call changes that thread alone.
template <class Work>
void as_user(uid_t uid, Work work) {
  std::thread([&] {
    TCPMUX_CHECK(::syscall(SYS_setresuid, -1, uid, -1) == 0, "root may be anybody");
    work();
  }).join();
}

TEST_F(ControlSocketTest, OthersAreRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can be somebody else";
  serve();
  ASSERT_EQ(::chmod(folder_.path().c_str(), 0755), 0);
  as_user(65'534, [&] { EXPECT_EQ(Client(path_).error(), EACCES); });
  ASSERT_EQ(::chmod(path_.c_str(), 0666), 0);
  as_user(65'534, [&] {
    Client client(path_);
    ASSERT_TRUE(client.connected());
    EXPECT_EQ(refusal(client.reply()), "uid 65534 may not control this daemon; root and uid 0 may");
    EXPECT_EQ(client.line(), std::nullopt);
  });
}

}  // namespace
}  // namespace tcpmux
