// fail_nth: runs a program and fails one of its system calls, the N-th from when it is told to.
//
//   fail_nth [--control FD] [--nth N] [--variant V] PROGRAM [ARGUMENT...]
//
// The program takes the place of this process, so its pid is the one that was started; a child of
// it (the supervisor) is asked about every system call by a seccomp filter (seccomp_unotify(2)),
// lets it go on, and answers the N-th with an error instead. Which calls count, and with what they
// fail, is in plausible_errors.cc; V chooses among the errors of a call that has several.
//
// FD is one end of a stream socket pair, and is the supervisor's alone. Lines are asked and
// answered:
//   arm N V    counts from here on, and fails the N-th call. Answer: as of status, before
//   status     {"calls": 17, "failed": null or {...}, "unclassified": ["number", ...],
//               "supervisor": its pid}
// The supervisor ends when the other end of FD is closed; without FD, when the program has ended,
// and writes its status to standard error.
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/check.h"
#include "core/base/fd.h"
#include "tests/faults/plausible_errors.h"

namespace tcpmux::faults {
namespace {

// sendmsg has three arguments. The filter lets one with this as its fourth pass unasked: it carries
// the listener to the supervisor, who could not answer before it has it.
constexpr std::uint32_t kPassword = 0x7C9A31E5;

struct Options {
  int control = -1;
  std::uint64_t nth = 0;  // 0: none
  std::uint64_t variant = 0;
  char** program = nullptr;
};

[[noreturn]] void die(const std::string& what) {
  std::fprintf(stderr, "fail_nth: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(125);
}

// ---- the filter

std::vector<sock_filter> make_filter() {
  const auto load = [](std::size_t offset) {
    return sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<std::uint32_t>(offset));
  };
  const auto give = [](std::uint32_t action) {
    return sock_filter BPF_STMT(BPF_RET | BPF_K, action);
  };
  std::vector<sock_filter> filter = {load(offsetof(seccomp_data, nr))};
  for (const int number : never_failed()) {
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(number), 0, 1));
    filter.push_back(give(SECCOMP_RET_ALLOW));
  }
  filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sendmsg, 0, 3));
  filter.push_back(load(offsetof(seccomp_data, args[3])));
  filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kPassword, 0, 1));
  filter.push_back(give(SECCOMP_RET_ALLOW));
  filter.push_back(give(SECCOMP_RET_USER_NOTIF));
  return filter;
}

// From here on every call that the filter asks about waits for the supervisor.
int install_filter() {
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) die("no_new_privs");
  std::vector<sock_filter> filter = make_filter();
  const sock_fprog program{.len = static_cast<unsigned short>(filter.size()),
                           .filter = filter.data()};
  // Else a signal between the question and its answer has the call asked about twice.
  constexpr unsigned kWaitKillable = 1U << 5;  // SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, 5.19
  for (const unsigned more : {kWaitKillable, 0U}) {
    const long listener = ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                                    SECCOMP_FILTER_FLAG_NEW_LISTENER | more, &program);
    if (listener >= 0) return static_cast<int>(listener);
  }
  die("seccomp");
}

struct DescriptorMessage {
  DescriptorMessage() {
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
  }
  char byte = 0;
  iovec part{.iov_base = &byte, .iov_len = 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
};

void send_listener(int to, int listener) {
  DescriptorMessage message;
  cmsghdr* const rights = CMSG_FIRSTHDR(&message.header);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof listener);
  std::memcpy(CMSG_DATA(rights), &listener, sizeof listener);
  if (::syscall(SYS_sendmsg, to, &message.header, 0, std::uint64_t{kPassword}) != 1) ::_exit(125);
}

OwnFd receive_listener(int from) {
  DescriptorMessage message;
  if (::recvmsg(from, &message.header, MSG_CMSG_CLOEXEC) != 1) die("no listener came");
  const cmsghdr* const rights = CMSG_FIRSTHDR(&message.header);
  int listener = -1;
  if (rights != nullptr) std::memcpy(&listener, CMSG_DATA(rights), sizeof listener);
  return OwnFd(listener);
}

// ---- the supervisor

std::string text_of(int error) {
  const char* const name = ::strerrorname_np(error);
  return name != nullptr ? name : std::to_string(error);
}

std::string thread_name(std::uint32_t id) {
  std::string name;
  std::getline(std::ifstream("/proc/" + std::to_string(id) + "/comm"), name);
  return name;
}

// What a descriptor is, for who reads the report: "socket:[123]", "anon_inode:[eventfd]", a path.
std::string target_of(std::uint32_t process, std::uint64_t descriptor) {
  std::array<char, 256> text{};
  const std::string path = "/proc/" + std::to_string(process) + "/fd/" + std::to_string(descriptor);
  const ssize_t size = ::readlink(path.c_str(), text.data(), text.size());
  return size < 0 ? "" : std::string(text.data(), static_cast<std::size_t>(size));
}

class Supervisor {
 public:
  Supervisor(const Options& options, OwnFd listener)
      : control_(options.control),
        listener_(std::move(listener)),
        arming_{options.nth, options.variant} {}

  void run();
  std::string status() const;

 private:
  struct Arming {
    std::uint64_t nth = 0;
    std::uint64_t variant = 0;
  };
  void answer_call();
  int error_for(const seccomp_notif& call);
  bool obey();
  void obey(std::string_view line);

  int control_;
  OwnFd listener_;
  Arming arming_;
  std::uint64_t calls_ = 0;
  std::string failed_ = "null";
  std::set<std::string> unclassified_;
  std::string asked_;
};

void Supervisor::run() {
  bool ended = false;
  for (;;) {
    std::array<pollfd, 2> waiting = {
        {{.fd = ended ? -1 : listener_.get(), .events = POLLIN, .revents = 0},
         {.fd = control_, .events = POLLIN, .revents = 0}}};
    if (::poll(waiting.data(), waiting.size(), -1) < 0) continue;
    if ((waiting[0].revents & POLLIN) != 0) answer_call();
    // The last process with the filter is gone.
    else if (waiting[0].revents != 0)
      ended = true;
    if (waiting[1].revents != 0 && !obey()) return;
    if (ended && control_ < 0) return;
  }
}

void Supervisor::answer_call() {
  seccomp_notif call{};
  if (::ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_RECV, &call) < 0) return;  // killed meanwhile
  seccomp_notif_resp answer{};
  answer.id = call.id;
  const int error = error_for(call);
  if (error == 0) answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
  if (error != 0) answer.error = -error;
  ::ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_SEND, &answer);
}

// 0: it goes on.
int Supervisor::error_for(const seccomp_notif& call) {
  const auto& arguments = call.data.args;
  const std::string descriptor = target_of(call.pid, arguments[0]);
  const Verdict verdict = judge(call.data.nr, arguments[1], descriptor);
  if (verdict.kind == Kind::kUnclassified) unclassified_.insert(std::to_string(call.data.nr));
  if (verdict.kind != Kind::kFails) return 0;
  if (++calls_ != arming_.nth) return 0;
  const int error = verdict.errors[arming_.variant % verdict.errors.size()];
  failed_ = std::string("{\"call\": \"") + verdict.name + "\", \"error\": \"" + text_of(error) +
            "\", \"thread\": \"" + thread_name(call.pid) + "\", \"arguments\": [" +
            std::to_string(arguments[0]) + ", " + std::to_string(arguments[1]) +
            "], \"descriptor\": \"" + descriptor +
            "\", \"errors\": " + std::to_string(verdict.errors.size()) + "}";
  return error;
}

std::string Supervisor::status() const {
  std::string unclassified;
  for (const std::string& number : unclassified_)
    unclassified += (unclassified.empty() ? "\"" : ", \"") + number + "\"";
  return "{\"calls\": " + std::to_string(calls_) + ", \"failed\": " + failed_ +
         ", \"unclassified\": [" + unclassified +
         "], \"supervisor\": " + std::to_string(::getpid()) + "}";
}

// False when nobody is there any more who could ask.
bool Supervisor::obey() {
  std::array<char, 256> buffer;
  const ssize_t size = ::read(control_, buffer.data(), buffer.size());
  if (size <= 0) return false;
  asked_.append(buffer.data(), static_cast<std::size_t>(size));
  for (std::size_t end = asked_.find('\n'); end != std::string::npos; end = asked_.find('\n')) {
    obey(std::string_view(asked_).substr(0, end));
    asked_.erase(0, end + 1);
  }
  return true;
}

void Supervisor::obey(std::string_view line) {
  const std::string answer = status() + "\n";
  Arming arming;
  if (std::sscanf(std::string(line).c_str(), "arm %lu %lu", &arming.nth, &arming.variant) == 2) {
    arming_ = arming;
    calls_ = 0;
    failed_ = "null";
  }
  [[maybe_unused]] const ssize_t ignored = ::write(control_, answer.data(), answer.size());
}

// ---- the beginning

std::optional<std::uint64_t> number(const char* text) {
  std::uint64_t value = 0;
  const char* const end = text + std::strlen(text);
  const auto read = std::from_chars(text, end, value);
  if (read.ec != std::errc() || read.ptr != end) return std::nullopt;
  return value;
}

std::optional<Options> parse(int argc, char** argv) {
  Options options;
  int i = 1;
  for (; i + 1 < argc && argv[i][0] == '-'; i += 2) {
    const std::string_view name = argv[i];
    const auto value = number(argv[i + 1]);
    if (!value) return std::nullopt;
    if (name == "--control") {
      options.control = static_cast<int>(*value);
    } else if (name == "--nth") {
      options.nth = *value;
    } else if (name == "--variant") {
      options.variant = *value;
    } else {
      return std::nullopt;
    }
  }
  if (i >= argc) return std::nullopt;
  options.program = argv + i;
  return options;
}

// Holds nothing of the program's but what it needs, so that who waits for the end of the program's
// output sees it.
void supervise(const Options& options, int from) {
  const OwnFd channel(from);
  Supervisor supervisor(options, receive_listener(from));
  if (options.control >= 0)
    for (const int stream : {0, 1, 2})
      ::close(stream);
  ::setsid();  // a Ctrl-C is the program's
  supervisor.run();
  if (options.control < 0) std::fprintf(stderr, "fail_nth: %s\n", supervisor.status().c_str());
}

int run(int argc, char** argv) {
  const std::optional<Options> options = parse(argc, argv);
  if (!options) {
    std::fprintf(stderr, "usage: fail_nth [--control FD] [--nth N] [--variant V] PROGRAM...\n");
    return 125;
  }
  if (options->control >= 0 && ::fcntl(options->control, F_SETFD, FD_CLOEXEC) < 0)
    die("the control descriptor");
  int channel[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) < 0) die("socketpair");
  const pid_t child = ::fork();
  if (child < 0) die("fork");
  if (child == 0) {
    ::close(channel[1]);
    supervise(*options, channel[0]);
    return 0;
  }
  send_listener(channel[1], install_filter());
  ::execvp(options->program[0], options->program);
  die(options->program[0]);
}

}  // namespace
}  // namespace tcpmux::faults

int main(int argc, char** argv) {
  return tcpmux::faults::run(argc, argv);
}
