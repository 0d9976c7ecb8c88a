// LoadIo on io_uring. Connect, send, receive and close are an entry each, and go to the kernel
// together; they are not linked, since links cost more than the order is worth: over loopback the
// connection is there when the connect's entry was taken, and elsewhere the others wait for it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "core/io/uring_ring.h"
#include "tools/load/load_io.h"

namespace load {

class UringIo {
 public:
  // With O_NONBLOCK nothing would wait: the kernel takes it as a wish for -EAGAIN.
  static constexpr int kSocketFlags = 0;

  // To be made and used on one thread.
  static tcpmux::Result<std::unique_ptr<UringIo>> create(std::uint32_t slots);

  void connect(std::uint32_t slot, int fd, Target target);
  void send(std::uint32_t slot, int fd, std::span<const char> bytes);
  void receive(std::uint32_t slot, int fd, std::span<char> into);
  void cancel(std::uint32_t slot, int fd);
  void close(std::uint32_t slot, int fd);
  std::size_t wait(std::span<Completion> completions, std::int64_t until_ns);

 private:
  UringIo() = default;

  io_uring_sqe* next(std::uint64_t user_data);
  void enter(std::int64_t until_ns);

  tcpmux::UringRing ring_;
};

static_assert(LoadIo<UringIo>);

}  // namespace load
