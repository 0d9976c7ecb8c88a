// One conversation with a daemon over its control socket: a line each way.
#pragma once

#include <cstdint>
#include <expected>
#include <string>

#include "core/base/fd.h"

namespace ctl {

// Why it came to nothing: the exit status, and a sentence that says what to do.
struct Failure {
  int exit_code;
  std::string message;
};

class Conversation {
 public:
  static std::expected<Conversation, Failure> begin(const std::string& path);

  // Sends one line and waits for the one that answers, given without its line end.
  std::expected<std::string, Failure> ask(const std::string& line, std::int64_t patience_ns);

  // Waits until the daemon's process has ended.
  std::expected<void, Failure> wait_for_end() const;

 private:
  Conversation(std::string path, tcpmux::OwnFd socket, tcpmux::OwnFd process)
      : path_(std::move(path)), socket_(std::move(socket)), process_(std::move(process)) {}

  std::string path_;
  tcpmux::OwnFd socket_;
  tcpmux::OwnFd process_;  // a pidfd; invalid where the kernel gives none
};

}  // namespace ctl
