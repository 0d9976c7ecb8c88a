// The control socket's path: who may be there, what is replaced, what is left alone, and that a
// successor takes it over without a gap.
#include "core/server/control_path.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <deque>
#include <filesystem>
#include <string>
#include <thread>

#include "tests/unit/control_fixture.h"

namespace tcpmux {
namespace {

namespace fs = std::filesystem;

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
