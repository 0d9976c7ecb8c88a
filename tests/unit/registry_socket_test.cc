// The registry's path: who holds it, what may be removed there, and what is left alone.
#include "handoff/registry_socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>

#include "tests/unit/temporary_folder.h"

namespace tcpmux::handoff {
namespace {

namespace fs = std::filesystem;

OwnFd socket_at(const std::string& path, bool connects) {
  OwnFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const auto* name = reinterpret_cast<const sockaddr*>(&address);
  const int result =
      connects ? ::connect(fd.get(), name, sizeof address) : ::bind(fd.get(), name, sizeof address);
  if (result < 0) fd.reset();
  return fd;
}

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

class RegistrySocketTest : public ::testing::Test {
 protected:
  void expect_refused(const std::string& path, const std::string& why) {
    const Result<RegistrySocket> socket = RegistrySocket::open(path);
    ASSERT_FALSE(socket.has_value());
    EXPECT_NE(socket.error().message.find(why), std::string::npos) << socket.error().message;
    EXPECT_NE(socket.error().message.find(path), std::string::npos) << socket.error().message;
  }
  TestFolder folder_;
  const std::string path_ = folder_.file("registry.sock");
};

TEST_F(RegistrySocketTest, IsThereForEveryoneAndGoesWithIt) {
  {
    const Result<RegistrySocket> socket = RegistrySocket::open(path_);
    ASSERT_TRUE(socket.has_value()) << socket.error().message;
    EXPECT_EQ(socket->path(), path_);
    EXPECT_TRUE(socket_at(path_, true).valid());
    struct stat found{};
    ASSERT_EQ(::stat(path_.c_str(), &found), 0);
    EXPECT_EQ(found.st_mode & 0777, 0666U);
    EXPECT_EQ(text_of(path_ + ".lock"), std::to_string(::getpid()) + "\n");
    EXPECT_NE(::fcntl(socket->fd(), F_GETFD) & FD_CLOEXEC, 0);
  }
  EXPECT_FALSE(fs::exists(path_));
  EXPECT_TRUE(fs::exists(path_ + ".lock")) << "without it two daemons could lock two files";
  EXPECT_TRUE(RegistrySocket::open(path_).has_value()) << "and the path can be had again";
}

TEST_F(RegistrySocketTest, AMovedOneIsRemovedOnce) {
  Result<RegistrySocket> socket = RegistrySocket::open(path_);
  ASSERT_TRUE(socket.has_value());
  {
    const RegistrySocket moved = *std::move(socket);
    EXPECT_TRUE(fs::exists(path_));
  }
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(RegistrySocketTest, ASecondHolderIsToldOfTheFirst) {
  const Result<RegistrySocket> first = RegistrySocket::open(path_);
  ASSERT_TRUE(first.has_value());
  expect_refused(path_, "pid " + std::to_string(::getpid()));
  EXPECT_TRUE(socket_at(path_, true).valid()) << "the first still serves";
}

TEST_F(RegistrySocketTest, AHolderWithoutAPidIsAnotherProcess) {
  const OwnFd lock(::open((path_ + ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  ASSERT_EQ(::flock(lock.get(), LOCK_EX), 0);
  expect_refused(path_, "another process");
}

TEST_F(RegistrySocketTest, WhatACrashLeftIsTakenOver) {
  const pid_t child = ::fork();
  if (child == 0) {
    const Result<RegistrySocket> socket = RegistrySocket::open(path_);
    ::_exit(socket.has_value() ? 0 : 1);  // no destructor runs
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  ASSERT_TRUE(fs::exists(path_));
  EXPECT_FALSE(socket_at(path_, true).valid()) << "nobody listens";
  const Result<RegistrySocket> socket = RegistrySocket::open(path_);
  ASSERT_TRUE(socket.has_value()) << socket.error().message;
  EXPECT_TRUE(socket_at(path_, true).valid());
  EXPECT_EQ(text_of(path_ + ".lock"), std::to_string(::getpid()) + "\n");
}

// The two descriptors of the one before, as another process would have them.
RegistrySocket successor_of(const RegistrySocket& before) {
  return RegistrySocket::take_over(before.path(), OwnFd(::fcntl(before.lock(), F_DUPFD_CLOEXEC, 0)),
                                   OwnFd(::fcntl(before.fd(), F_DUPFD_CLOEXEC, 0)));
}

TEST_F(RegistrySocketTest, ASuccessorClaimsThePathAndRemovesIt) {
  {
    std::optional<RegistrySocket> after;
    {
      Result<RegistrySocket> before = RegistrySocket::open(path_);
      ASSERT_TRUE(before.has_value());
      after.emplace(successor_of(*before));
      std::ofstream(path_ + ".lock") << "1\n";  // the pid of the one before
      ASSERT_TRUE(after->claim().has_value());
      EXPECT_EQ(text_of(path_ + ".lock"), std::to_string(::getpid()) + "\n");
      before->give_up();
    }
    EXPECT_TRUE(socket_at(path_, true).valid()) << "it stays when the one before ends";
    expect_refused(path_, "pid " + std::to_string(::getpid()));
  }
  EXPECT_FALSE(fs::exists(path_)) << "and goes with the one that has claimed it";
  EXPECT_TRUE(RegistrySocket::open(path_).has_value());
}

TEST_F(RegistrySocketTest, ASuccessorSeesThatThePathWasGoneBefore) {
  const Result<RegistrySocket> before = RegistrySocket::open(path_);
  ASSERT_TRUE(before.has_value());
  fs::remove(path_);
  RegistrySocket after = successor_of(*before);
  EXPECT_FALSE(after.is_at_path());
  ASSERT_TRUE(after.claim().has_value());
  ASSERT_TRUE(after.restore().has_value());
  EXPECT_TRUE(after.is_at_path());
  EXPECT_TRUE(socket_at(path_, true).valid());
}

TEST_F(RegistrySocketTest, ASuccessorThatClaimsNothingLeavesItAlone) {
  {
    const Result<RegistrySocket> before = RegistrySocket::open(path_);
    ASSERT_TRUE(before.has_value());
    {
      const RegistrySocket after = successor_of(*before);
      EXPECT_EQ(after.path(), path_);
    }
    EXPECT_TRUE(socket_at(path_, true).valid());
    expect_refused(path_, "another tcpmuxd");
  }
  EXPECT_FALSE(fs::exists(path_)) << "the one before goes on, and removes it";
}

// The one before has ended without ours having claimed it: nobody else may have it meanwhile.
TEST_F(RegistrySocketTest, TheLockIsHeldByWhoeverIsLeft) {
  Result<RegistrySocket> before = RegistrySocket::open(path_);
  ASSERT_TRUE(before.has_value());
  std::optional<RegistrySocket> after(successor_of(*before));
  before->give_up();
  {
    const RegistrySocket ended = *std::move(before);
  }
  expect_refused(path_, "another tcpmuxd");
  after.reset();
  EXPECT_TRUE(RegistrySocket::open(path_).has_value()) << "the file is nobody's then";
}

TEST_F(RegistrySocketTest, WhoTakesThePathBackIsItsHolder) {
  Result<RegistrySocket> before = RegistrySocket::open(path_);
  ASSERT_TRUE(before.has_value());
  std::ofstream(path_ + ".lock") << "1\n";  // a successor has written its pid, and failed
  ASSERT_TRUE(before->claim().has_value());
  EXPECT_EQ(text_of(path_ + ".lock"), std::to_string(::getpid()) + "\n");
}

TEST_F(RegistrySocketTest, OnlyASocketIsRemoved) {
  std::ofstream(path_) << "precious";
  expect_refused(path_, "not a socket");
  EXPECT_EQ(text_of(path_), "precious");

  const std::string a_folder = folder_.file("folder");
  fs::create_directory(a_folder);
  expect_refused(a_folder, "not a socket");

  const std::string a_link = folder_.file("link");
  fs::create_symlink(path_, a_link);
  expect_refused(a_link, "not a socket");
  EXPECT_EQ(text_of(path_), "precious");
}

TEST_F(RegistrySocketTest, ALockThatIsALinkIsNotFollowed) {
  const std::string target = folder_.file("precious");
  std::ofstream(target) << "precious";
  fs::create_symlink(target, path_ + ".lock");
  expect_refused(path_, "lock");
  EXPECT_EQ(text_of(target), "precious");
}

TEST_F(RegistrySocketTest, APathThatIsTooLong) {
  const std::string longest = folder_.file(std::string(107 - folder_.path().size() - 1, 'p'));
  ASSERT_EQ(longest.size(), 107U);
  EXPECT_TRUE(RegistrySocket::open(longest).has_value());
  expect_refused(longest + "p", "longer than a socket's can be");
}

TEST_F(RegistrySocketTest, MakesItsFolderButNoMore) {
  const std::string one_level = folder_.file("run") + "/registry.sock";
  EXPECT_TRUE(RegistrySocket::open(one_level).has_value());
  EXPECT_TRUE(fs::is_directory(folder_.file("run")));

  const std::string two_levels = folder_.file("a/b") + "/registry.sock";
  const Result<RegistrySocket> refused = RegistrySocket::open(two_levels);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ENOENT);
  EXPECT_NE(refused.error().message.find(folder_.file("a/b")), std::string::npos);
}

TEST_F(RegistrySocketTest, ARelativePathIsItsOwn) {
  const fs::path before = fs::current_path();
  fs::current_path(folder_.path());
  EXPECT_TRUE(RegistrySocket::open("registry.sock").has_value());
  EXPECT_TRUE(RegistrySocket::open("run/registry.sock").has_value());
  fs::current_path(before);
}

TEST_F(RegistrySocketTest, AnothersSocketIsLeftAlone) {
  {
    const Result<RegistrySocket> socket = RegistrySocket::open(path_);
    ASSERT_TRUE(socket.has_value());
    const std::string other = folder_.file("other.sock");
    ASSERT_TRUE(socket_at(other, false).valid());
    fs::rename(other, path_);
  }
  EXPECT_TRUE(fs::exists(path_));
}

}  // namespace
}  // namespace tcpmux::handoff
