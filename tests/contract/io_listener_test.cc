// Listening sockets, and whether io_uring is to be had.
#include "core/io/listener.h"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/tcp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cstddef>
#include <fstream>
#include <functional>

#include "core/io/probe.h"
#include "tests/contract/support.h"

namespace tcpmux::contract_test {
namespace {

Endpoint endpoint(std::string_view text) {
  const Result<Endpoint> parsed = parse_endpoint(text);
  TCPMUX_CHECK(parsed.has_value(), "a test knows how to write an endpoint");
  return *parsed;
}

int option_of(const OwnFd& fd, int level, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  TCPMUX_CHECK(::getsockopt(fd.get(), level, name, &value, &size) == 0, "an option can be read");
  return value;
}

bool has_v6() {
  const OwnFd fd(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_storage address;
  const socklen_t size = to_sockaddr(endpoint("[::1]:0"), address);
  return fd.valid() && ::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) == 0;
}

// Runs `body` in a child and returns its exit status; -1 where it did not exit.
int in_child(const std::function<int()>& body) {
  const pid_t child = ::fork();
  TCPMUX_CHECK(child >= 0, "a test needs a child");
  if (child == 0) ::_exit(body());
  int status = 0;
  TCPMUX_CHECK(::waitpid(child, &status, 0) == child, "a child ends");
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Listener, ListensAsAsked) {
  const Result<OwnFd> listener =
      open_listener({.endpoint = endpoint("127.0.0.1:0"), .defer_accept = true});
  ASSERT_TRUE(listener.has_value()) << listener.error().message;
  EXPECT_TRUE(is_close_on_exec(listener->get()));
  EXPECT_TRUE(is_blocking(listener->get()));
  EXPECT_EQ(option_of(*listener, SOL_SOCKET, SO_ACCEPTCONN), 1);
  EXPECT_EQ(option_of(*listener, SOL_SOCKET, SO_REUSEPORT), 1);
  EXPECT_EQ(option_of(*listener, SOL_SOCKET, SO_REUSEADDR), 1);
  EXPECT_GT(option_of(*listener, IPPROTO_TCP, TCP_DEFER_ACCEPT), 0);
  EXPECT_EQ(option_of(*listener, IPPROTO_TCP, TCP_NODELAY), 0);
  const Result<OwnFd> plain = open_listener({.endpoint = endpoint("127.0.0.1:0")});
  ASSERT_TRUE(plain.has_value());
  EXPECT_EQ(option_of(*plain, IPPROTO_TCP, TCP_DEFER_ACCEPT), 0);
}

TEST(Listener, TellsThePortThatTheKernelChose) {
  const Result<OwnFd> listener = open_listener({.endpoint = endpoint("127.0.0.1:0")});
  ASSERT_TRUE(listener.has_value());
  const Result<Endpoint> local = local_endpoint(listener->get());
  ASSERT_TRUE(local.has_value());
  EXPECT_EQ(local->address, endpoint("127.0.0.1:0").address);
  EXPECT_NE(local->port, 0);
  EXPECT_FALSE(local_endpoint(-1).has_value());
}

TEST(Listener, ShardsShareAPort) {
  const Result<OwnFd> first = open_listener({.endpoint = endpoint("127.0.0.1:0")});
  ASSERT_TRUE(first.has_value());
  const Result<OwnFd> second = open_listener({.endpoint = *local_endpoint(first->get())});
  EXPECT_TRUE(second.has_value()) << second.error().message;
}

// Another tcpmuxd has SO_REUSEPORT too, and is to be found all the same.
TEST(Listener, FindsThatAPortIsTaken) {
  for (const bool shared : {true, false}) {
    Result<OwnFd> foreign = open_listener({.endpoint = endpoint("127.0.0.1:0")});
    ASSERT_TRUE(foreign.has_value());
    if (!shared) foreign = listen_on_loopback();
    const Endpoint taken = *local_endpoint(foreign->get());
    const Status status = check_port_is_free(taken, false);
    ASSERT_FALSE(status.has_value());
    EXPECT_EQ(status.error().code, EADDRINUSE);
    EXPECT_NE(status.error().message.find(to_string(taken)), std::string::npos);
    EXPECT_NE(status.error().message.find("another program listens there"), std::string::npos);
    foreign->reset();
    const Status free = check_port_is_free(taken, false);
    EXPECT_TRUE(free.has_value()) << free.error().message;
    const Result<OwnFd> ours = open_listener({.endpoint = taken});
    EXPECT_TRUE(ours.has_value()) << ours.error().message;
  }
}

// Connections of a predecessor, alive in a backend or lingering in TIME_WAIT, take no port.
TEST(Listener, ForgetsThePredecessorsConnections) {
  Result<OwnFd> listener = open_listener({.endpoint = endpoint("127.0.0.1:0")});
  ASSERT_TRUE(listener.has_value());
  const Endpoint local = *local_endpoint(listener->get());
  OwnFd client = connect_to(*listener);
  OwnFd server(::accept4(listener->get(), nullptr, nullptr, SOCK_CLOEXEC));
  listener->reset();
  const Status alive = check_port_is_free(local, false);
  EXPECT_TRUE(alive.has_value()) << alive.error().message;
  server.reset();  // we close first, so the TIME_WAIT is at our port
  EXPECT_EQ(receive_text(client.get(), 1), "");
  client.reset();
  const Status lingering = check_port_is_free(local, false);
  EXPECT_TRUE(lingering.has_value()) << lingering.error().message;
}

TEST(Listener, SaysWhatToDo) {
  const Result<OwnFd> foreign_address = open_listener({.endpoint = endpoint("192.0.2.1:4000")});
  ASSERT_FALSE(foreign_address.has_value());
  EXPECT_EQ(foreign_address.error().code, EADDRNOTAVAIL);
  EXPECT_NE(foreign_address.error().message.find("no interface of this machine"),
            std::string::npos);
}

TEST(Listener, SaysWhatALowPortNeeds) {
  std::ifstream sysctl("/proc/sys/net/ipv4/ip_unprivileged_port_start");
  if (int start = 0; sysctl >> start && start <= 1) GTEST_SKIP() << "any user may use port 1 here";
  const int outcome = in_child([] {
    if (::geteuid() == 0 && ::setresuid(65534, 65534, 65534) < 0) return 2;
    const Status status = check_port_is_free(endpoint("127.0.0.1:1"), false);
    if (status || status.error().code != EACCES) return 3;
    return status.error().message.find("CAP_NET_BIND_SERVICE") != std::string::npos ? 0 : 4;
  });
  EXPECT_EQ(outcome, 0);
}

TEST(Listener, V6OnlyExactlyWhereV4IsServedBesideIt) {
  const std::array all = {endpoint("0.0.0.0:1"), endpoint("[::]:1"), endpoint("[::]:2"),
                          endpoint("127.0.0.1:2"), endpoint("[::1]:3")};
  EXPECT_FALSE(v6_only_for(all[0], all));
  EXPECT_TRUE(v6_only_for(all[1], all));   // 0.0.0.0:1 has the IPv4 part
  EXPECT_FALSE(v6_only_for(all[2], all));  // 127.0.0.1 is not the whole of IPv4
  EXPECT_TRUE(v6_only_for(all[4], all));
}

TEST(Listener, BothWildcardsStandSideBySide) {
  if (!has_v6()) GTEST_SKIP() << "no IPv6 here";
  const Result<OwnFd> v4 = open_listener({.endpoint = endpoint("0.0.0.0:0")});
  ASSERT_TRUE(v4.has_value());
  Endpoint wildcard = endpoint("[::]:0");
  wildcard.port = local_endpoint(v4->get())->port;
  EXPECT_FALSE(check_port_is_free(wildcard, false).has_value());
  EXPECT_TRUE(check_port_is_free(wildcard, true).has_value());
  const Result<OwnFd> v6 = open_listener({.endpoint = wildcard, .v6_only = true});
  ASSERT_TRUE(v6.has_value()) << v6.error().message;
  EXPECT_EQ(option_of(*v6, IPPROTO_IPV6, IPV6_V6ONLY), 1);
}

TEST(Listener, DualStackServesV4) {
  if (!has_v6()) GTEST_SKIP() << "no IPv6 here";
  const Result<OwnFd> listener = open_listener({.endpoint = endpoint("[::]:0")});
  ASSERT_TRUE(listener.has_value()) << listener.error().message;
  Endpoint target = endpoint("127.0.0.1:0");
  target.port = local_endpoint(listener->get())->port;
  sockaddr_storage address;
  const socklen_t size = to_sockaddr(target, address);
  const OwnFd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
}

// ---- the probe

TEST(Probe, FindsWhatIsThereAndLeavesNothingBehind) {
  const std::size_t before = open_descriptors();
  const std::optional<Error> why_not = why_not_uring();
  EXPECT_EQ(open_descriptors(), before);
  EXPECT_EQ(!why_not.has_value(), kernel_has_uring()) << (why_not ? why_not->message : "");
}

// Makes the system call fail with `error`, as a container's runtime does. 0 or an errno.
int deny(int system_call, int error) {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(system_call), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<std::uint32_t>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{.len = std::size(program), .filter = program};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return errno;
  return ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) < 0 ? errno : 0;
}

constexpr int kNoSeccomp = 77;

// The exit status: 0 where the probe names `name` and has `error` as its code.
int refused_with(int error, std::string_view name) {
  return in_child([&] {
    if (deny(SYS_io_uring_setup, error) != 0) return kNoSeccomp;
    const std::optional<Error> why_not = why_not_uring();
    if (!why_not) return 1;
    std::fprintf(stderr, "%s\n", why_not->message.c_str());
    if (why_not->code != error) return 2;
    const bool complete = why_not->message.find(name) != std::string::npos &&
                          why_not->message.find("io_uring_setup") != std::string::npos;
    return complete ? 0 : 3;
  });
}

TEST(Probe, NamesARefusalByPermission) {
  const int outcome = refused_with(EPERM, "EPERM");
  if (outcome == kNoSeccomp) GTEST_SKIP() << "no seccomp filters here";
  EXPECT_EQ(outcome, 0);
}

TEST(Probe, NamesAKernelWithoutIt) {
  const int outcome = refused_with(ENOSYS, "ENOSYS");
  if (outcome == kNoSeccomp) GTEST_SKIP() << "no seccomp filters here";
  EXPECT_EQ(outcome, 0);
}

}  // namespace
}  // namespace tcpmux::contract_test
