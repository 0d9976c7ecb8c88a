// The control socket: who may speak, what a request and its reply look like, and that neither a
// silent, nor a greedy, nor a vanished client harms anything.
#include "core/server/control_socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <deque>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/base/check.h"
#include "tests/unit/temporary_folder.h"

namespace tcpmux {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::int64_t kPatient_ns = 60 * kNanosPerSecond;  // longer than any test
constexpr std::int64_t kHasty_ns = 50 * kNanosPerMilli;

class Client {
 public:
  explicit Client(const std::string& path) : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const timeval patience{.tv_sec = 30, .tv_usec = 0};
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    if (::connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) {
      error_ = errno;
      fd_.reset();
    }
  }
  bool connected() const { return fd_.valid(); }
  int error() const { return error_; }
  // False when the other side is gone.
  bool send(const std::string& text) {
    for (std::size_t at = 0; at < text.size();) {
      const ssize_t sent = ::send(fd_.get(), text.data() + at, text.size() - at, MSG_NOSIGNAL);
      if (sent < 0) return false;
      at += static_cast<std::size_t>(sent);
    }
    return true;
  }
  std::size_t send_what_is_taken(const std::string& text) {
    const ssize_t sent = ::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    return sent < 0 ? 0 : static_cast<std::size_t>(sent);
  }
  void half_close() { ::shutdown(fd_.get(), SHUT_WR); }
  void leave() { fd_.reset(); }
  // Without reading what is left to be read.
  bool wait_for_the_end() {
    pollfd one{.fd = fd_.get(), .events = 0, .revents = 0};
    return ::poll(&one, 1, 30'000) == 1 && (one.revents & POLLHUP) != 0;
  }
  // Without its line end; nothing at the end of the connection.
  std::optional<std::string> line() {
    for (;;) {
      const std::size_t end = input_.find('\n');
      if (end != std::string::npos) {
        const std::string one = input_.substr(0, end);
        input_.erase(0, end + 1);
        return one;
      }
      std::vector<char> buffer(65'536);
      const ssize_t bytes = ::recv(fd_.get(), buffer.data(), buffer.size(), 0);
      if (bytes <= 0) {
        EXPECT_FALSE(bytes < 0 && errno == EAGAIN) << "neither a line nor the end came";
        return std::nullopt;
      }
      input_.append(buffer.data(), static_cast<std::size_t>(bytes));
    }
  }
  json reply() {
    const std::optional<std::string> text = line();
    return text ? json::parse(*text) : json{{"ended", true}};
  }
  json ask(const std::string& command) {
    send(json{{"command", command}}.dump() + "\n");
    return reply();
  }

 private:
  OwnFd fd_;
  std::string input_;
  int error_ = 0;
};

// A control socket whose loop runs on a thread of its own. Commands: "echo" gives the request back,
// "later" is answered when somebody asks "now", "count" says how many of them wait, "large" has a
// long reply.
class Served {
 public:
  Served(const std::string& path, IfServed if_served, std::int64_t patience_ns)
      : loop_(*EventLoop::create()), stop_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    auto opened = ControlSocket::open(
        {.path = path, .if_served = if_served, .patience_ns = patience_ns}, *loop_, handlers());
    if (!opened) {
      error_ = opened.error().message;
      return;
    }
    socket_ = *std::move(opened);
    TCPMUX_CHECK(loop_->add(stop_.get(), [this] { loop_->stop(); }).has_value(), "a fresh eventfd");
    thread_ = std::thread([this] { loop_->run(); });
  }
  ~Served() { stop(); }
  void stop() {
    if (!thread_.joinable()) return;
    const std::uint64_t one = 1;
    TCPMUX_CHECK(::write(stop_.get(), &one, sizeof one) == sizeof one, "an eventfd takes one");
    thread_.join();
    socket_.reset();
  }
  const std::string& error() const { return error_; }
  std::vector<ControlReply>& held() { return held_; }  // once it has stopped

  static constexpr std::size_t kLargeBytes = 1'000'000;

 private:
  ControlHandlers handlers() {
    ControlHandlers all;
    all["echo"] = [](const json& request, const ControlReply& reply) {
      reply.send({{"ok", true}, {"request", request}});
      reply.send({{"ok", false}, {"error", "a second reply to one request"}});
    };
    all["later"] = [this](const json&, const ControlReply& reply) { held_.push_back(reply); };
    all["now"] = [this](const json&, const ControlReply& reply) {
      reply.send({{"ok", true}, {"held", held_.size()}});
      for (const ControlReply& one : std::exchange(held_, {}))
        one.send({{"ok", true}, {"late", true}});
    };
    all["count"] = [this](const json&, const ControlReply& reply) {
      reply.send({{"ok", true}, {"held", held_.size()}});
    };
    all["large"] = [](const json&, const ControlReply& reply) {
      reply.send({{"ok", true}, {"text", std::string(kLargeBytes, 'x')}});
    };
    all["bytes"] = [](const json&, const ControlReply& reply) {
      reply.send({{"ok", true}, {"text", "\xFF\xFE"}});
    };
    return all;
  }

  std::unique_ptr<EventLoop> loop_;
  OwnFd stop_;
  std::vector<ControlReply> held_;
  std::unique_ptr<ControlSocket> socket_;
  std::string error_;
  std::thread thread_;
};

class ControlSocketTest : public ::testing::Test {
 protected:
  Served& serve(std::int64_t patience_ns = kPatient_ns) {
    served_.emplace(path_, IfServed::kRefuse, patience_ns);
    EXPECT_EQ(served_->error(), "");
    return *served_;
  }
  // Until so many requests wait for their replies.
  void await_held(std::size_t count) {
    Client client(path_);
    while (client.ask("count")["held"] != count) {
    }
  }
  // A client that has been let in, however many others are just leaving.
  Client admitted() {
    for (;;) {
      Client client(path_);
      if (client.ask("echo")["ok"] == true) return client;
    }
  }
  TestFolder folder_;
  const std::string path_ = folder_.file("x.control.sock");
  std::optional<Served> served_;
};

std::string refusal(const json& reply) {
  EXPECT_EQ(reply.value("ok", true), false) << reply;
  return reply.value("error", "");
}

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

// ---- The path

class ControlPathTest : public ControlSocketTest {
 protected:
  std::string why_not(const std::string& path) {
    const Result<ControlPath> opened = ControlPath::open(path, IfServed::kRefuse);
    return opened ? "(no error)" : opened.error().message;
  }
};

TEST_F(ControlPathTest, GoesWithTheSocket) {
  serve().stop();
  EXPECT_FALSE(fs::exists(path_));
  EXPECT_FALSE(fs::exists(path_ + "~"));
  EXPECT_EQ(why_not(path_), "(no error)") << "and can be had again";
}

TEST_F(ControlPathTest, WhatACrashLeftIsReplaced) {
  for (const std::string& name : {path_, path_ + "~"}) {
    const OwnFd left(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, name.c_str(), name.size() + 1);
    ASSERT_EQ(::bind(left.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  }
  serve();
  EXPECT_EQ(Client(path_).ask("echo")["ok"], true);
  EXPECT_FALSE(fs::exists(path_ + "~"));
}

TEST_F(ControlPathTest, WhoeverListensThereIsNamed) {
  serve();
  const std::string why = why_not(path_);
  EXPECT_NE(why.find("pid " + std::to_string(::getpid())), std::string::npos) << why;
  EXPECT_NE(why.find("control.path"), std::string::npos) << why;
  EXPECT_EQ(Client(path_).ask("echo")["ok"], true) << "and goes on";
}

TEST_F(ControlPathTest, ASuccessorTakesItOverWithoutAGap) {
  Served& first = serve();
  Client before(path_);
  EXPECT_EQ(before.ask("echo")["ok"], true);
  std::atomic<bool> done = false;
  std::thread watcher([&] {
    while (!done)
      EXPECT_EQ(Client(path_).ask("now")["ok"], true) << "at every moment somebody answers";
  });
  std::deque<Served> successors;
  for (int i = 0; i < 20; ++i) {
    successors.emplace_back(path_, IfServed::kTakeOver, kPatient_ns);
    EXPECT_EQ(successors.back().error(), "");
  }
  EXPECT_EQ(before.ask("echo")["ok"], true) << "who was connected stays with the first";
  EXPECT_EQ(Client(path_).ask("echo")["ok"], true);
  done = true;
  watcher.join();
  first.stop();
  EXPECT_EQ(Client(path_).ask("echo")["ok"], true) << "its end leaves the other's file alone";
}

TEST_F(ControlPathTest, OnlyASocketIsReplaced) {
  const std::string file = folder_.file("precious");
  ::close(::open(file.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  const std::string link = folder_.file("link");
  fs::create_symlink(file, link);
  fs::create_directory(folder_.file("folder"));
  for (const std::string& path : {file, link, folder_.file("folder")}) {
    const std::string why = why_not(path);
    EXPECT_NE(why.find(path + " exists and is not a socket"), std::string::npos) << why;
    EXPECT_NE(why.find("control.path"), std::string::npos) << why;
    EXPECT_TRUE(fs::exists(path));
  }
}

TEST_F(ControlPathTest, MakesItsFolderButNoMore) {
  EXPECT_EQ(why_not(folder_.file("run") + "/x"), "(no error)");
  EXPECT_TRUE(fs::is_directory(folder_.file("run")));
  const std::string why = why_not(folder_.file("a/b") + "/x");
  EXPECT_NE(why.find("mkdir " + folder_.file("a/b")), std::string::npos) << why;
}

TEST_F(ControlPathTest, TheLongest) {
  const std::string longest = folder_.file(std::string(106 - folder_.path().size() - 1, 'p'));
  ASSERT_EQ(longest.size(), control_path_bytes_max());
  EXPECT_EQ(why_not(longest), "(no error)");
  EXPECT_NE(why_not(longest + "p").find("longer than 106 bytes"), std::string::npos);
}

}  // namespace
}  // namespace tcpmux
