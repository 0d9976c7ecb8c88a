// The demo backends, as programs, behind a fake mux: tcpmux-demo over the library, and daytime.py,
// which was written from PROTOCOL.md alone.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/wait.h>

#include <array>
#include <chrono>
#include <fstream>

#include "tests/unit/fake_mux.h"
#include "tests/unit/temporary_folder.h"

namespace tcpmux::handoff {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// Reads from `fd` until `wanted` has come, or the end.
std::string read_until(int fd, const std::string& wanted) {
  std::string text;
  char bytes[4096];
  while ((wanted.empty() || text.find(wanted) == std::string::npos) && readable(fd)) {
    const ssize_t size = ::read(fd, bytes, sizeof bytes);
    if (size <= 0) break;
    text.append(bytes, static_cast<std::size_t>(size));
  }
  return text;
}

std::string read_all(const OwnFd& fd) {
  return read_until(fd.get(), "");
}

void write_all(const OwnFd& fd, const std::string& text) {
  ASSERT_EQ(::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(text.size()));
}

// A program that runs, and what it says on both of its outputs.
class Program {
 public:
  explicit Program(std::vector<std::string> words) {
    int both[2];
    if (::pipe2(both, O_CLOEXEC) < 0) throw std::runtime_error("pipe2");
    output_ = OwnFd(both[0]);
    const OwnFd input(both[1]);
    std::vector<char*> arguments;
    for (std::string& word : words)
      arguments.push_back(word.data());
    arguments.push_back(nullptr);
    process_ = ::fork();
    if (process_ != 0) return;
    ::dup2(input.get(), STDOUT_FILENO);
    ::dup2(input.get(), STDERR_FILENO);
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program() {
    if (process_ > 0) end(SIGKILL);
  }

  std::string says(const std::string& wanted) const { return read_until(output_.get(), wanted); }
  void tell(int signal) const { ::kill(process_, signal); }
  // Everything that it still says, to its end.
  std::string rest() const { return read_all(output_); }
  // Its exit code, or -1 if a signal ended it.
  int wait() { return end(0); }

 private:
  int end(int signal) {
    if (signal != 0) ::kill(process_, signal);
    int status = -1;
    ::waitpid(process_, &status, 0);
    process_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  pid_t process_ = -1;
  OwnFd output_;
};

class DemoTest : public ::testing::Test {
 protected:
  std::vector<std::string> demo(std::vector<std::string> words) const {
    words.insert(words.begin(), {TCPMUX_DEMO_PROGRAM, "--registry", mux_.path()});
    return words;
  }
  std::vector<std::string> daytime(std::vector<std::string> words) const {
    words.insert(words.begin(), {TCPMUX_DAYTIME_PROGRAM, "--registry", mux_.path()});
    return words;
  }
  OwnFd client_of(const std::string& service, int id = 0) const {
    return std::move(registration_.hand_over(0, 1, id, service).front());
  }
  void welcome() {
    registration_ = mux_.next();
    registration_.welcome();
  }

  FakeMux mux_;
  FakeRegistration registration_;
};

TEST_F(DemoTest, EchoGivesBackWhatComesToItsEnd) {
  const Program program(demo({"echo"}));
  welcome();
  const OwnFd client = client_of("echo");
  write_all(client, "sent early, ");
  EXPECT_EQ(read_until(client.get(), "early, "), "sent early, ");
  const std::string much(50'000, 'x');
  write_all(client, much + "end");
  ::shutdown(client.get(), SHUT_WR);
  EXPECT_EQ(read_all(client), much + "end");
}

TEST_F(DemoTest, WhoamiTellsTheFactsOfTheHandoff) {
  const Program program(demo({"whoami"}));
  welcome();
  const OwnFd client = client_of("whoami", 0xAB);
  const std::string text = read_all(client);
  EXPECT_THAT(text, HasSubstr("the mux says 192.0.2.7:50000\r\n"));
  EXPECT_THAT(text, HasSubstr("you asked    198.51.100.1:1\r\n"));
  EXPECT_THAT(text, HasSubstr("for          whoami\r\n"));
  EXPECT_THAT(text, HasSubstr("connection   000000000000000000000000000000ab\r\n"));
  EXPECT_THAT(text, HasSubstr("accepted     2022-04-06 16:53:27.492403 UTC\r\n"));
}

TEST_F(DemoTest, ChatTellsAllOthers) {
  const Program program(demo({"chat"}));
  welcome();
  const OwnFd first = client_of("chat");
  EXPECT_THAT(read_until(first.get(), "\r\n"), StartsWith("* you are guest1; here: 1;"));
  const OwnFd second = client_of("chat");
  EXPECT_THAT(read_until(second.get(), "\r\n"), StartsWith("* you are guest2; here: 2;"));
  EXPECT_EQ(read_until(first.get(), "\r\n"), "* guest2 (192.0.2.7:50000) joins\r\n");
  write_all(first, "he");
  write_all(first, "llo\x1B[2J\r\n");
  EXPECT_EQ(read_until(second.get(), "\r\n"), "guest1: hello[2J\r\n");
  ::shutdown(second.get(), SHUT_RDWR);
  EXPECT_EQ(read_until(first.get(), "\r\n"), "* guest2 leaves\r\n") << "and no echo of its own";
}

TEST_F(DemoTest, ASlowChatterHoldsNobodyUp) {
  const Program program(demo({"chat"}));
  welcome();
  const OwnFd slow = client_of("chat");
  read_until(slow.get(), "\r\n");
  const OwnFd talker = client_of("chat");
  read_until(talker.get(), "\r\n");
  const std::string line = std::string(1000, 'x') + "\r\n";
  // Until the talker is told; each line is heard, so that sends never wait.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!readable(talker.get(), 0)) {
    ASSERT_LT(std::chrono::steady_clock::now(), deadline);
    write_all(talker, line);
  }
  EXPECT_EQ(read_until(talker.get(), "\r\n"), "* guest1 was too slow and is gone\r\n");
}

TEST_F(DemoTest, ClientsAreCountedAndTheMuxIsToldGoodbye) {
  Program program(demo({"--quiet", "--count", "discard", "echo"}));
  welcome();
  for (int i = 0; i < 3; ++i)
    EXPECT_EQ(read_all(client_of("discard")), "");
  program.tell(SIGUSR1);
  EXPECT_EQ(program.says("echo 0\n"), "received discard 3\nreceived echo 0\n");
  const OwnFd client = client_of("echo");
  write_all(client, "x");
  EXPECT_EQ(read_until(client.get(), "x"), "x");
  program.tell(SIGTERM);
  EXPECT_EQ(registration_.next_type(), static_cast<int>(MessageType::kDrain));
  EXPECT_EQ(registration_.next_type(), static_cast<int>(MessageType::kGoodbye));
  EXPECT_EQ(read_all(client), "") << "its end is said to a client that stays";
  ::shutdown(client.get(), SHUT_WR);
  EXPECT_EQ(program.rest(), "received discard 3\nreceived echo 1\n");
  EXPECT_EQ(program.wait(), 0);
}

TEST_F(DemoTest, ACountFileOutlivesTheProcess) {
  const TestFolder folder;
  const std::string path = folder.file("counts");
  const auto counts = [&path] {
    std::array<std::uint64_t, 3> values{};
    std::ifstream(path).read(reinterpret_cast<char*>(values.data()), sizeof values);
    return values;
  };
  {
    const Program program(demo({"--count-file", path, "echo", "whoami"}));
    welcome();
    const std::vector<OwnFd> clients = registration_.hand_over(0, 3, 0, "echo");
    write_all(clients[1], "x");
    EXPECT_EQ(read_until(clients[1].get(), "x"), "x");
    const OwnFd another = client_of("whoami");
    EXPECT_THAT(read_all(another), HasSubstr("served by    process"));
    write_all(clients[1], "y");
    EXPECT_EQ(read_until(clients[1].get(), "y"), "y") << "so whoami's is counted too";
  }
  EXPECT_THAT(counts(), ::testing::ElementsAre(0, 4, 2)) << "receiving, received, answered";
}

TEST_F(DemoTest, ACountFileThatCannotBe) {
  Program program(demo({"--count-file", "/nowhere/counts", "echo"}));
  EXPECT_THAT(program.rest(), HasSubstr("/nowhere/counts: No such file or directory"));
  EXPECT_EQ(program.wait(), 1);
}

TEST_F(DemoTest, WorkersShareARegistrationAndAreReplaced) {
  Program program(demo({"--workers", "1", "whoami"}));
  welcome();
  const auto served_by = [this] {
    const std::string text = read_all(client_of("whoami"));
    const std::size_t at = text.find("process ");
    return at == std::string::npos ? 0 : std::stoi(text.substr(at + 8));
  };
  const pid_t first = served_by();
  ASSERT_GT(first, 1);
  ASSERT_EQ(::kill(first, SIGKILL), 0);
  const pid_t second = served_by();
  EXPECT_GT(second, 1);
  EXPECT_NE(second, first);
  program.tell(SIGTERM);
  EXPECT_EQ(program.wait(), 0);
  EXPECT_EQ(registration_.next_type(), static_cast<int>(MessageType::kGoodbye)) << "once, for all";
}

TEST_F(DemoTest, SaysWhatBecomesOfTheMux) {
  mux_.stop_listening();
  const Program program(demo({"echo", "chat"}));
  EXPECT_EQ(program.says("\n"), "no mux at " + mux_.path() + " yet, waiting for it\n");
  mux_.listen();
  welcome();
  EXPECT_EQ(program.says("\n"), "serving echo, chat via " + mux_.path() + "\n");
  registration_ = {};
  EXPECT_EQ(program.says("\n"), "the mux has gone, waiting for it at " + mux_.path() + "\n");
  welcome();
  EXPECT_EQ(program.says("\n"), "the mux is back: serving echo, chat via " + mux_.path() + "\n");
}

TEST_F(DemoTest, ARefusalEndsIt) {
  Program program(demo({"echo"}));
  mux_.next().refuse(RefuseCode::kNotAllowed, "not you");
  EXPECT_THAT(program.rest(), HasSubstr("not you"));
  EXPECT_EQ(program.wait(), 1);
}

TEST_F(DemoTest, DaytimeSpeaksTheProtocol) {
  const Program program(daytime({"--name", "clock"}));
  welcome();
  EXPECT_THAT(registration_.asked.names, ::testing::ElementsAre("clock"));
  EXPECT_EQ(program.says("\n"), "serving clock via " + mux_.path() + "\n");
  ASSERT_EQ(send_now(registration_.lanes[0].ours.get(), encode_plain(MessageType::kProbe), {}), 0);
  const OwnFd client = client_of("clock");
  EXPECT_THAT(read_all(client), EndsWith("\r\n"));
  EXPECT_EQ(program.says("\n"), "told 192.0.2.7 port 50000 the time\n");
}

TEST_F(DemoTest, DaytimeOutlivesTheMux) {
  const Program program(daytime({}));
  welcome();
  const OwnFd client = client_of("daytime");
  registration_ = {};
  EXPECT_THAT(read_all(client), EndsWith("\r\n")) << "it was in the lane";
  mux_.next();                                                    // takes it, and is gone
  mux_.next().refuse(RefuseCode::kShuttingDown, "another time");  // is leaving itself
  mux_.next().refuse(RefuseCode::kNoRoom, "another time");
  welcome();
  const OwnFd another = client_of("daytime");
  EXPECT_THAT(read_all(another), EndsWith("\r\n"));
}

TEST_F(DemoTest, DaytimeSaysWhyItIsRefused) {
  Program program(daytime({}));
  mux_.next().refuse(RefuseCode::kBadName, "no such thing");
  EXPECT_EQ(program.rest(), "refused: no such thing (code 5)\n");
  EXPECT_EQ(program.wait(), 1);
}

}  // namespace
}  // namespace tcpmux::handoff
