// A control socket whose loop runs on a thread of its own, and clients of it.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/base/check.h"
#include "core/server/control_socket.h"
#include "tests/unit/temporary_folder.h"

namespace tcpmux {

using nlohmann::json;

inline constexpr std::int64_t kPatient_ns = 60 * kNanosPerSecond;  // longer than any test
inline constexpr std::int64_t kHasty_ns = 50 * kNanosPerMilli;

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

inline std::string refusal(const json& reply) {
  EXPECT_EQ(reply.value("ok", true), false) << reply;
  return reply.value("error", "");
}

}  // namespace tcpmux
