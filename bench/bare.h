// What the two bare loops share: the listener, the child that takes the sockets, and the message
// that carries them.
//
// A bare loop is the least program that does a TCPMUX server's work: accept, find the line's end,
// take the line and nothing behind it, say "+", pass the socket to another process, close. No
// names, no refusals, no deadlines: every client is taken to be well-behaved. What it needs is what
// the kernel needs, and a real server is measured against it.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace bench {

inline constexpr std::string_view kReply = "+\r\n";
inline constexpr std::size_t kBatch = 8;
inline constexpr std::size_t kLineBytes = 64;
inline constexpr int kDescriptorsMax = 16384;
// Exit status: the kernel refuses what the program needs (a test is then skipped).
inline constexpr int kExitRefused = 77;

[[noreturn]] void die(const char* what);
[[noreturn]] void die(const char* what, int error);

// The port from "--port N"; 0 lets the kernel choose.
std::uint16_t port_from(int argc, char** argv);

// On 127.0.0.1, with TCP_DEFER_ACCEPT and the longest backlog.
int open_listener(std::uint16_t port, int type_flags);

// The bytes up to and with the LF; 0 when there is none.
std::size_t line_bytes(const char* bytes, std::size_t count);

// A child that receives sockets and closes them at once. Ends when the parent does.
struct Receiver {
  int lane = -1;  // our end
  pid_t process = -1;
};
Receiver start_receiver();

// "listening on 127.0.0.1:PORT, receiver PID".
void announce(int listener, const Receiver& receiver);

// Sockets that travel in one message, which carries one byte.
class Batch {
 public:
  Batch();
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  void add(int socket) { sockets_[count_++] = socket; }
  bool full() const { return count_ == kBatch; }
  // Sends what was added, if anything, and closes our copies with it: whoever closes last sends the
  // FIN, which costs more than all the rest of a close, and where a backend does something with its
  // sockets, that is the backend. Waits where the receiver is slower than we are.
  void hand_over(int lane);

 private:
  alignas(cmsghdr) std::byte control_[CMSG_SPACE(kBatch * sizeof(int))];
  int* sockets_;  // in the control message
  std::size_t count_ = 0;
  char payload_ = 0;
  iovec vector_;
  msghdr message_{};
};

}  // namespace bench
