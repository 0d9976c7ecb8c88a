// Lanes: SOCK_SEQPACKET pairs of which the mux keeps a copy of the backend's end. What is queued
// in one is still the mux's, whatever becomes of the backend.
#include <gtest/gtest.h>
#include <linux/sockios.h>  // SIOCOUTQ, SIOCINQ
#include <sys/un.h>

#include "tests/kernel/ring.h"
#include "tests/kernel/support.h"

namespace tcpmux::kernel_test {
namespace {

int waiting_to_be_taken(const Lane& lane) {
  return queue_bytes(lane.sender.get(), SIOCOUTQ);
}

// ---- The queue outlives the backend

constexpr std::size_t kMessages = 8;
constexpr std::size_t kSocketsPerMessage = 4;
constexpr std::size_t kTaken = 3;

std::string name_of(std::size_t message, std::size_t socket) {
  return std::to_string(message) + "." + std::to_string(socket);
}

// A backend that takes kTaken messages and says so, then waits for a word. On it, it looks whether
// there is more (status 2 if so) and serves the sockets that it took.
int run_backend(int lane, const Pipe& taken, const Pipe& word) {
  std::vector<Received> messages;
  for (std::size_t i = 0; i < kTaken; ++i) {
    messages.push_back(receive_message(lane, CMSG_SPACE(kMessageFdsMax * sizeof(int)), 0));
    if (messages.back().fds.size() != kSocketsPerMessage) return 1;
  }
  char byte = 'x';
  if (::write(taken.write_end.get(), &byte, 1) != 1) return 1;
  if (wait_for(word.read_end.get(), POLLIN) == 0) return 1;
  if (receive_message(lane).error != EAGAIN) return 2;
  for (std::size_t i = 0; i < kTaken; ++i)
    for (std::size_t j = 0; j < kSocketsPerMessage; ++j)
      if (!send_text(messages[i].fds[j].get(), name_of(i, j))) return 1;
  return 0;
}

// A mux with its clients, and a backend that has taken the first kTaken of kMessages.
class HandedOver {
 public:
  HandedOver() : backend_([this] { return run_backend(lane_.receiver.get(), taken_, word_); }) {
    const Listener listener = make_listener();
    for (std::size_t i = 0; i < kMessages; ++i) {
      std::vector<OwnFd> sockets;
      std::vector<int> fds;
      for (std::size_t j = 0; j < kSocketsPerMessage; ++j) {
        clients_.push_back(make_client(listener.endpoint));
        TCPMUX_CHECK(wait_for(listener.fd.get(), POLLIN) != 0, "the connection arrives");
        sockets.emplace_back(::accept4(listener.fd.get(), nullptr, nullptr, SOCK_CLOEXEC));
        fds.push_back(sockets.back().get());
      }
      TCPMUX_CHECK(send_message(lane_.sender.get(), "handoff " + std::to_string(i), fds) > 0,
                   "an empty lane has room");
    }
    taken_in_time_ = wait_for(taken_.read_end.get(), POLLIN) != 0;
  }

  bool taken_in_time() const { return taken_in_time_; }
  Child& backend() { return backend_; }
  const Lane& lane() const { return lane_; }
  const OwnFd& client(std::size_t message, std::size_t socket) const {
    return clients_[message * kSocketsPerMessage + socket];
  }
  bool tell_backend_to_go_on() const { return ::write(word_.write_end.get(), "x", 1) == 1; }

  // Takes back from the kept copy what the backend has not received, and serves its clients.
  void take_back() const {
    for (std::size_t i = kTaken; i < kMessages; ++i) {
      const int before = waiting_to_be_taken(lane_);
      const Received received = receive_message(lane_.receiver.get());
      EXPECT_EQ(received.payload, "handoff " + std::to_string(i));
      EXPECT_EQ(received.flags & (MSG_CTRUNC | MSG_TRUNC), 0);
      EXPECT_LT(waiting_to_be_taken(lane_), before);
      ASSERT_EQ(received.fds.size(), kSocketsPerMessage);
      for (std::size_t j = 0; j < kSocketsPerMessage; ++j) {
        EXPECT_TRUE(send_text(received.fds[j].get(), name_of(i, j)));
        EXPECT_EQ(read_stream(client(i, j).get(), name_of(i, j).size()).text, name_of(i, j));
      }
    }
    EXPECT_EQ(receive_message(lane_.receiver.get()).error, EAGAIN);
    EXPECT_EQ(waiting_to_be_taken(lane_), 0);
  }

 private:
  const Lane lane_ = make_lane();
  const Pipe taken_ = make_pipe();
  const Pipe word_ = make_pipe();
  Child backend_;  // forked before there are clients: it has no socket but what it receives
  std::vector<OwnFd> clients_;
  bool taken_in_time_ = false;
};

// Fact: the queue of a Unix socket lives as long as the last copy of the receiving end. recvmsg
// on a kept copy returns exactly the messages that a killed receiver had not taken, descriptors
// intact; SIOCOUTQ on the sending end does not change by the death. (All versions; seen on 6.18.)
// Why: this is how the mux takes back handoffs, so that no client that was told `+` is lost in a
// queue.
TEST(Lane, QueueOutlivesKilledReceiver) {
  HandedOver handed;
  ASSERT_TRUE(handed.taken_in_time());
  const int waiting = waiting_to_be_taken(handed.lane());
  EXPECT_GT(waiting, 0);
  handed.backend().kill(SIGKILL);
  const int status = handed.backend().wait();
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  EXPECT_EQ(waiting_to_be_taken(handed.lane()), waiting);

  handed.take_back();
  for (std::size_t i = 0; i < kTaken; ++i)
    for (std::size_t j = 0; j < kSocketsPerMessage; ++j) {
      const Stream lost = read_stream(handed.client(i, j).get());
      EXPECT_TRUE(lost.ended && lost.text.empty()) << "what it had received died with it";
    }
}

// Fact: the same from a receiver that is stopped: what is taken back it never gets, and what it
// had taken it keeps.
// Why: a stalled backend is treated like a dead one, and may wake up.
TEST(Lane, QueueOfStoppedReceiverIsTakenBack) {
  HandedOver handed;
  ASSERT_TRUE(handed.taken_in_time());
  handed.backend().kill(SIGSTOP);
  ASSERT_TRUE(WIFSTOPPED(handed.backend().wait(WUNTRACED)));
  handed.take_back();

  ASSERT_TRUE(handed.tell_backend_to_go_on());
  handed.backend().kill(SIGCONT);
  EXPECT_EQ(handed.backend().wait(), 0) << "exit status 2: it received what was taken back";
  for (std::size_t i = 0; i < kTaken; ++i)
    for (std::size_t j = 0; j < kSocketsPerMessage; ++j)
      EXPECT_EQ(read_stream(handed.client(i, j).get()).text, name_of(i, j));
}

// Fact: what is queued stays receivable after the sender has closed its end, descriptors intact;
// then comes EOF, without MSG_DONTWAIT's EAGAIN.
// Why: when the mux exits or crashes, no handoff in a queue is lost, and the library sees the end.
TEST(Lane, QueueOutlivesSender) {
  Lane lane = make_lane();
  Pipe pipe = make_pipe();
  ASSERT_GT(send_message(lane.sender.get(), "first", std::array{pipe.write_end.get()}), 0);
  ASSERT_GT(send_message(lane.sender.get(), "second"), 0);
  pipe.write_end.reset();
  lane.sender.reset();

  const Received first = receive_message(lane.receiver.get());
  EXPECT_EQ(first.payload, "first");
  ASSERT_EQ(first.fds.size(), 1U);
  EXPECT_TRUE(leads_to(first.fds[0].get(), pipe));
  EXPECT_EQ(receive_message(lane.receiver.get()).payload, "second");
  EXPECT_EQ(receive_message(lane.receiver.get()).result, 0);
}

// Fact: once the last copy of the receiving end is closed, sending fails: EPIPE, and before it
// ECONNRESET once if messages were lost in the queue. As long as a copy is kept, it succeeds.
// Why: a lane is found dead by either error; with the kept copy it is the registry connection
// that tells of a backend's death, not the lane.
TEST(Lane, SendFailsOnceLastReceiverIsClosed) {
  Lane lane = make_lane();
  OwnFd copy(::dup(lane.receiver.get()));
  lane.receiver.reset();
  ASSERT_EQ(send_message(lane.sender.get(), "kept"), 4);
  copy.reset();
  EXPECT_EQ(send_message(lane.sender.get(), "lost"), -1);
  EXPECT_EQ(errno, ECONNRESET);
  EXPECT_EQ(send_message(lane.sender.get(), "lost"), -1);
  EXPECT_EQ(errno, EPIPE);

  Lane empty = make_lane();
  empty.receiver.reset();
  EXPECT_EQ(send_message(empty.sender.get(), "lost"), -1);
  EXPECT_EQ(errno, EPIPE);
}

// ---- Room

// Fact: SIOCOUTQ on the sending end counts the memory of what waits: the same for each message
// of one size, whatever the number of descriptors, and it falls as the receiver takes them.
// (768 bytes for a small message on 6.18, x86-64.)
// Why: the mux knows the room in a lane, and that it stalls, without the backend's help.
TEST(Lane, OutqueueTellsWhatWaits) {
  const Lane lane = make_lane();
  const Pipe pipe = make_pipe();
  const std::vector<int> fds(8, pipe.write_end.get());
  EXPECT_EQ(waiting_to_be_taken(lane), 0);
  ASSERT_GT(send_message(lane.sender.get(), "same size"), 0);
  const int one = waiting_to_be_taken(lane);
  ASSERT_GT(one, 9);
  for (int i = 2; i <= 8; ++i) {
    ASSERT_GT(send_message(lane.sender.get(), "same size",
                           std::span(fds).first(static_cast<std::size_t>(i))),
              0);
    EXPECT_EQ(waiting_to_be_taken(lane), i * one);
  }
  for (int i = 7; i >= 0; --i) {
    EXPECT_EQ(receive_message(lane.receiver.get()).payload, "same size");
    EXPECT_EQ(waiting_to_be_taken(lane), i * one);
  }
}

// Fact: SIOCINQ on the receiving end is the sum of the payload bytes of all messages that wait,
// for SOCK_SEQPACKET as for SOCK_STREAM (unlike SOCK_DGRAM, where it is the first message's).
// Why: on the kept copy it tells the same of any backend, independent of how the kernel accounts
// for memory.
TEST(Lane, InqueueIsSumOfPayloads) {
  for (const int type : {SOCK_SEQPACKET, SOCK_STREAM}) {
    SCOPED_TRACE(type == SOCK_STREAM ? "stream" : "seqpacket");
    const Lane lane = make_lane(type);
    const Pipe pipe = make_pipe();
    const std::array fds{pipe.write_end.get()};
    const auto waits = [&] { return queue_bytes(lane.receiver.get(), SIOCINQ); };
    EXPECT_EQ(waits(), 0);
    ASSERT_EQ(send_message(lane.sender.get(), std::string(1, 'a'), fds), 1);
    EXPECT_EQ(waits(), 1);
    ASSERT_EQ(send_message(lane.sender.get(), std::string(1000, 'b'), fds), 1000);
    EXPECT_EQ(waits(), 1001);
    ASSERT_EQ(send_message(lane.sender.get(), std::string(37, 'c')), 37);
    EXPECT_EQ(waits(), 1038);
    // Descriptors part messages in a stream too, so each call takes one.
    EXPECT_EQ(receive_message(lane.receiver.get()).result, 1);
    EXPECT_EQ(waits(), 1037);
    EXPECT_EQ(receive_message(lane.receiver.get()).result, 1000);
    EXPECT_EQ(waits(), 37);
    EXPECT_EQ(receive_message(lane.receiver.get()).result, 37);
    EXPECT_EQ(waits(), 0);
  }
}

// As sendmsg and IORING_OP_SENDMSG: the bytes sent, or the negative errno.
int send_by_call(const Lane& lane, OutgoingMessage& message) {
  const ssize_t sent = ::sendmsg(lane.sender.get(), &message.header(), MSG_DONTWAIT | MSG_NOSIGNAL);
  return sent < 0 ? -errno : static_cast<int>(sent);
}
int send_by_ring(Ring& ring, const Lane& lane, OutgoingMessage& message) {
  return ring
      .run([&](io_uring_sqe* sqe) {
        ::io_uring_prep_sendmsg(sqe, lane.sender.get(), &message.header(),
                                MSG_DONTWAIT | MSG_NOSIGNAL);
      })
      .result;
}

// Sends until the lane is full; how many messages that were. The bound is SO_SNDBUF: a message is
// taken as long as what waits (SIOCOUTQ) is below it.
template <class Send>
int expect_bounded_queue(Send send, int buffer_bytes) {
  constexpr int kFar = 100'000;
  const Lane lane = make_lane();
  set_option(lane.sender.get(), SOL_SOCKET, SO_SNDBUF, buffer_bytes);
  const int limit = option_of(lane.sender.get(), SOL_SOCKET, SO_SNDBUF);
  const Pipe pipe = make_pipe();
  OutgoingMessage message("handoff", std::array{pipe.write_end.get()});

  int sent = 0;
  int result = 0;
  int before_last = 0;
  while (sent < kFar) {
    const int before = waiting_to_be_taken(lane);
    result = send(lane, message);
    if (result < 0) break;
    before_last = before;
    ++sent;
  }
  EXPECT_EQ(result, -EAGAIN);
  EXPECT_LT(before_last, limit);
  EXPECT_GE(waiting_to_be_taken(lane), limit);
  pollfd writable{.fd = lane.sender.get(), .events = POLLOUT, .revents = 0};
  EXPECT_EQ(::poll(&writable, 1, 0), 0) << "a full lane is not writable";

  EXPECT_EQ(receive_message(lane.receiver.get()).payload, "handoff");
  EXPECT_EQ(send(lane, message), 7) << "one taken makes room for one";
  while (receive_message(lane.receiver.get()).result > 0) {
  }
  EXPECT_EQ(wait_for(lane.sender.get(), POLLOUT), POLLOUT);
  return sent;
}

// Fact: a full queue is EAGAIN with MSG_DONTWAIT, bounded by the sender's SO_SNDBUF: 278 small
// messages with its default of 212992 bytes, seen on 6.18.
// Why: SO_SNDBUF is sized from a lane's window, and a full lane never blocks a shard.
TEST(Lane, FullQueueIsEagainBySendmsg) {
  const int small = expect_bounded_queue(send_by_call, 8192);
  const int large = expect_bounded_queue(send_by_call, 65536);
  EXPECT_GT(small, 0);
  EXPECT_GT(large, 4 * small);
}

// Fact: IORING_OP_SENDMSG with MSG_DONTWAIT completes with -EAGAIN at the same bound, and is not
// kept until there is room, as it would be without the flag.
TEST(Lane, FullQueueIsEagainByIoUring) {
  Ring ring;
  TCPMUX_SKIP_WITHOUT(ring);
  const auto send = [&](const Lane& lane, OutgoingMessage& message) {
    return send_by_ring(ring, lane, message);
  };
  const int small = expect_bounded_queue(send, 8192);
  EXPECT_EQ(small, expect_bounded_queue(send_by_call, 8192));
}

// ---- What travels with a socket, and who is there

// Fact: O_NONBLOCK lives in the open file description, which both sides of a handoff share;
// FD_CLOEXEC belongs to the descriptor, and a received one has what MSG_CMSG_CLOEXEC says.
// Why: the backend sees a socket as the mux left it, so the mux leaves it as the backend asked.
TEST(Lane, NonblockingIsSharedAndCloexecIsNot) {
  const Lane lane = make_lane();
  const Connection connection = make_connection();
  const int ours = connection.server.get();
  ASSERT_EQ(::fcntl(ours, F_SETFL, ::fcntl(ours, F_GETFL) | O_NONBLOCK), 0);
  ASSERT_EQ(::fcntl(ours, F_SETFD, FD_CLOEXEC), 0);
  for (const int flags : {0, int{MSG_CMSG_CLOEXEC}}) {
    ASSERT_EQ(send_message(lane.sender.get(), "x", std::array{ours}), 1);
    const Received received = receive_message(lane.receiver.get(), CMSG_SPACE(sizeof(int)), flags);
    ASSERT_EQ(received.fds.size(), 1U);
    const int theirs = received.fds[0].get();
    EXPECT_EQ(::fcntl(theirs, F_GETFD), flags == 0 ? 0 : FD_CLOEXEC);
    EXPECT_NE(::fcntl(theirs, F_GETFL) & O_NONBLOCK, 0);
    ASSERT_EQ(::fcntl(theirs, F_SETFL, ::fcntl(theirs, F_GETFL) & ~O_NONBLOCK), 0);
    EXPECT_EQ(::fcntl(ours, F_GETFL) & O_NONBLOCK, 0);
    ASSERT_EQ(::fcntl(ours, F_SETFL, ::fcntl(ours, F_GETFL) | O_NONBLOCK), 0);
  }
}

// Fact: SO_PEERCRED on an accepted Unix SEQPACKET connection names the process that connected,
// and still does so after its death.
// Why: the registry decides by it who may serve a name.
TEST(Lane, PeerCredentialsNameTheProcessThatConnected) {
  OwnFd listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  // A length of the family alone lets the kernel choose an abstract name.
  ASSERT_EQ(
      ::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(sa_family_t)), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  socklen_t size = sizeof address;
  ASSERT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);

  Child peer([&] {
    const OwnFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    return ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), size) == 0 ? 0 : 1;
  });
  const pid_t peer_pid = peer.pid();
  ASSERT_NE(wait_for(listener.get(), POLLIN), 0);
  const OwnFd connection(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(connection.valid());
  EXPECT_EQ(peer.wait(), 0);

  ucred credentials{};
  socklen_t credentials_size = sizeof credentials;
  ASSERT_EQ(
      ::getsockopt(connection.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &credentials_size), 0);
  EXPECT_EQ(credentials.pid, peer_pid);
  EXPECT_EQ(credentials.uid, ::geteuid());
  EXPECT_EQ(credentials.gid, ::getegid());
}

}  // namespace
}  // namespace tcpmux::kernel_test
