#include "core/io/probe.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "core/base/clock.h"
#include "core/base/fd.h"
#include "core/io/listener.h"
#include "core/io/uring_backend.h"

namespace tcpmux {
namespace {

constexpr std::int64_t kPatience_ns = 3 * kNanosPerSecond;
constexpr std::string_view kLine = "probe\r\n";
constexpr std::string_view kReply = "+\r\n";

std::string cause_of_eperm() {
  std::string value;
  std::getline(std::ifstream("/proc/sys/kernel/io_uring_disabled"), value);
  if (value == "2") return "the sysctl kernel.io_uring_disabled is 2: off for every process";
  if (value == "1")
    return "the sysctl kernel.io_uring_disabled is 1: off for processes without CAP_SYS_ADMIN that "
           "are not in the group kernel.io_uring_group";
  return "a seccomp filter forbids it, as those of container runtimes do by default";
}

std::string likely_cause(int error) {
  switch (error) {
    case EPERM:
      return cause_of_eperm();
    case EACCES:
      return "a security module (SELinux, AppArmor) forbids it";
    case ENOSYS:
      return "the kernel is too old or was built without it, or a seccomp filter hides it";
    case EINVAL:
    case EOPNOTSUPP:
      return "the kernel is too old: Linux 5.19 is needed, and 6.1 or later is better";
    case ENOMEM:
      return "memory is short, or RLIMIT_MEMLOCK too low (ulimit -l)";
    case EMFILE:
    case ENFILE:
      return "the limit of open files is reached (ulimit -n)";
    case ETIME:
      return "the kernel took the operation and did not complete it";
    default:
      return "the cause is unknown";
  }
}

Error refusal(std::string step, int error) {
  const char* name = ::strerrorname_np(error);
  return {.message = std::move(step) + " failed with " +
                     (name != nullptr ? name : std::to_string(error)) + " (" +
                     std::strerror(error) + "): " + likely_cause(error),
          .code = error};
}

// What a connection goes through in a shard, on the loopback.
class Trial {
 public:
  explicit Trial(UringBackend& io) : io_(io), deadline_ns_(monotonic_ns() + kPatience_ns) {}

  std::optional<Error> run() {
    if (std::optional<Error> error = listen()) return error;
    io_.accept(kAccept, listener_.get());
    if (const int error = connect(); error != 0) return refusal("connect over the loopback", error);
    const int fd = await(kAccept);
    if (fd < 0) return refusal("multishot accept by io_uring", -fd);
    std::optional<Error> error = serve(fd);
    io_.close(fd);
    io_.cancel(kAccept, listener_.get());
    if (await(kAccept) != -ECANCELED && !error) error = refusal("cancel by io_uring", ETIME);
    return error;
  }

 private:
  static constexpr Tag kAccept{.operation = Operation::kAccept, .slot = {.index = 0}};
  static constexpr Tag kPeek{.operation = Operation::kPeek, .slot = {.index = 0}};
  static constexpr Tag kAnswer{.operation = Operation::kReply, .slot = {.index = 0}};

  std::optional<Error> listen() {
    const char* const loopbacks[] = {"127.0.0.1:0", "[::1]:0"};
    std::optional<Error> why_not;
    for (const char* loopback : loopbacks) {
      Result<OwnFd> made = open_listener({.endpoint = *parse_endpoint(loopback), .backlog = 1});
      if (made) {
        listener_ = std::move(*made);
        return std::nullopt;
      }
      why_not = std::move(made.error());
    }
    why_not->message = "io_uring cannot be tried without a loopback: " + why_not->message;
    return why_not;
  }

  // Does not wait: where a firewall swallows it, nothing is accepted, and that is noticed in time.
  int connect() {
    const Result<Endpoint> target = local_endpoint(listener_.get());
    if (!target) return target.error().code;
    sockaddr_storage address;
    const socklen_t size = to_sockaddr(*target, address);
    client_.reset(::socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!client_.valid()) return errno;
    if (::connect(client_.get(), reinterpret_cast<sockaddr*>(&address), size) == 0) return 0;
    return errno == EINPROGRESS ? 0 : errno;
  }

  std::optional<Error> serve(int fd) {
    std::array<char, 64> seen;
    io_.peek(kPeek, fd, seen);
    if (::send(client_.get(), kLine.data(), kLine.size(), MSG_NOSIGNAL) < 0)
      return refusal("send over the loopback", errno);
    const int peeked = await(kPeek);
    if (peeked != static_cast<int>(kLine.size()))
      return refusal("recv by io_uring", peeked < 0 ? -peeked : EIO);
    io_.reply(kAnswer, fd, kLine.size(), kReply, false);
    const int replied = await(kAnswer);
    if (replied != static_cast<int>(kReply.size()))
      return refusal("linked recv and send by io_uring", replied < 0 ? -replied : EIO);
    return std::nullopt;
  }

  // Its result; -ETIME where it does not come.
  int await(Tag tag) {
    while (monotonic_ns() < deadline_ns_) {
      Completion completion;
      if (io_.wait({&completion, 1}, deadline_ns_) == 1 && completion.tag.pack() == tag.pack())
        return completion.result;
    }
    return -ETIME;
  }

  UringBackend& io_;
  std::int64_t deadline_ns_;
  OwnFd listener_;
  OwnFd client_;
};

}  // namespace

std::optional<Error> why_not_uring() {
  Result<std::unique_ptr<UringBackend>> io =
      UringBackend::create({.operations_max = 16, .descriptors_max = 0});
  if (io) return Trial(**io).run();
  const std::string& message = io.error().message;  // "step: what the errno means"
  return refusal(message.substr(0, message.find(':')), io.error().code);
}

}  // namespace tcpmux
