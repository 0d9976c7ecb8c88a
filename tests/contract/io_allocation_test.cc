// Once an engine is made it allocates nothing. In this program operator new aborts where a thread
// has forbidden it.
#include <gtest/gtest.h>

#include <cstdlib>
#include <new>

#include "handoff/ancillary.h"
#include "tests/contract/support.h"

namespace {
thread_local bool allocation_forbidden = false;

void* allocate(std::size_t size) {
  if (allocation_forbidden) std::abort();
  void* memory = std::malloc(size > 0 ? size : 1);
  if (memory == nullptr) std::abort();
  return memory;
}
}  // namespace

void* operator new(std::size_t size) {
  return allocate(size);
}
void* operator new[](std::size_t size) {
  return allocate(size);
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete[](void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
  std::free(memory);
}

namespace tcpmux::contract_test {
namespace {

template <class Io>
class IoAllocation : public EngineTest<Io> {};
TYPED_TEST_SUITE(IoAllocation, Engines, EngineNames);

constexpr std::string_view kPlus = "+\r\n";
constexpr std::string_view kBusy = "-busy\r\n";

// Without Driven, which keeps what it sees in a vector.
template <class Io>
std::int32_t result_of(Io& io, Tag tag) {
  const std::int64_t deadline_ns = monotonic_ns() + kPatience_ns;
  while (monotonic_ns() < deadline_ns) {
    Completion completion;
    if (io.wait({&completion, 1}, deadline_ns) == 1 && same(completion.tag, tag))
      return completion.result;
  }
  return INT32_MIN;
}

template <class Io>
bool says_nothing(Io& io) {
  Completion completion;
  return io.reap({&completion, 1}) == 0;
}

struct World {
  OwnFd listener = listen_on_loopback();
  OwnFd wakeup{::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
  OwnFd lane_sender;
  OwnFd lane_receiver;
  msghdr message{};
  iovec vector{};
  handoff::ControlBuffer<1> control;

  World() {
    int ends[2];
    TCPMUX_CHECK(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0,
                 "a test needs a socket pair");
    lane_sender.reset(ends[0]);
    lane_receiver.reset(ends[1]);
  }
};

template <class Io>
void serve_one(Io& io, World& world) {
  const OwnFd client = connect_to(world.listener);
  const int fd = result_of(io, tag_of(Operation::kAccept));
  ASSERT_GE(fd, 0);
  std::array<char, 32> line{};
  io.peek(tag_of(Operation::kPeek), fd, line);
  ASSERT_TRUE(says_nothing(io));
  io.cancel(tag_of(Operation::kPeek), fd);
  ASSERT_EQ(result_of(io, tag_of(Operation::kPeek)), -ECANCELED);
  io.peek(tag_of(Operation::kPeek), fd, line);
  ASSERT_TRUE(says_nothing(io));
  send_text(client, "long name\r\n");
  ASSERT_EQ(result_of(io, tag_of(Operation::kPeek)), 11);
  io.discard(tag_of(Operation::kDiscard), fd, 5);
  ASSERT_EQ(result_of(io, tag_of(Operation::kDiscard)), 5);
  ASSERT_NE(io.endpoints(fd).source.port, 0);
  io.reply(tag_of(Operation::kReply), fd, 6, kPlus, false);
  ASSERT_EQ(result_of(io, tag_of(Operation::kReply)), 3);
  handoff::prepare_send(world.message, world.vector, std::as_bytes(std::span(kPlus)),
                        world.control.bytes, std::span(&fd, 1));
  ASSERT_EQ(io.send_now(world.lane_sender.get(), &world.message), 3);
  ASSERT_EQ(io.queued_bytes(world.lane_receiver.get()), 3U);
  iovec into{.iov_base = line.data(), .iov_len = line.size()};
  msghdr taken{};  // without room for the descriptor, which the kernel closes then
  taken.msg_iov = &into;
  taken.msg_iovlen = 1;
  ASSERT_EQ(io.receive_now(world.lane_receiver.get(), &taken), 3);
  io.shutdown_write(fd);
  send_text(client, "rest");
  io.drain(tag_of(Operation::kDrain), fd);
  ASSERT_EQ(result_of(io, tag_of(Operation::kDrain)), 4);
  io.close(fd);
}

template <class Io>
void do_everything(Io& io, World& world) {
  io.watch_wakeups(tag_of(Operation::kWakeup), world.wakeup.get());
  for (std::uint32_t round = 0; round < 20; ++round) {
    io.accept(tag_of(Operation::kAccept), world.listener.get());
    serve_one(io, world);
    io.cancel(tag_of(Operation::kAccept), world.listener.get());
    ASSERT_EQ(result_of(io, tag_of(Operation::kAccept)), -ECANCELED);
    const OwnFd late = connect_to(world.listener);
    ASSERT_EQ(io.shed(world.listener.get(), kBusy), Shed::kOne);
    const std::uint64_t one = 1;
    ASSERT_EQ(::write(world.wakeup.get(), &one, sizeof one), 8);
    ASSERT_EQ(result_of(io, tag_of(Operation::kWakeup)), 1);
  }
}

TYPED_TEST(IoAllocation, AnEngineAllocatesNothing) {
  auto io = TypeParam::create(kLimits);
  ASSERT_TRUE(io.has_value());
  World world;
  allocation_forbidden = true;
  do_everything(**io, world);
  allocation_forbidden = false;
}

TEST(AllocationWatch, Watches) {
  EXPECT_DEATH(
      {
        allocation_forbidden = true;
        ::operator delete(::operator new(1));
      },
      "");
}

}  // namespace
}  // namespace tcpmux::contract_test
