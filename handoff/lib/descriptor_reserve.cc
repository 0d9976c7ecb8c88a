#include "handoff/lib/descriptor_reserve.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <climits>

#include "handoff/message.h"

namespace tcpmux::handoff {
namespace {

std::size_t descriptor_limit() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<std::size_t>(std::min<rlim_t>(limit.rlim_cur, INT_MAX));
}

}  // namespace

bool DescriptorReserve::fill() {
  limit_ = descriptor_limit();
  if (!original_.valid()) original_ = OwnFd(::eventfd(0, EFD_CLOEXEC));
  if (!original_.valid()) return false;
  spare_.reserve(size_);
  while (spare_.size() < size_) {
    OwnFd spare(::fcntl(original_.get(), F_DUPFD_CLOEXEC, 0));
    if (!spare.valid()) return false;
    spare_.push_back(std::move(spare));
  }
  return true;
}

// One system call asks for all: poll answers POLLNVAL for a number that is not open. Where the
// highest `size` numbers are free there is room, and the reserve can stay where it is; that is so
// in any program that is not near its limit, since the kernel gives out the lowest first.
bool DescriptorReserve::top_of_table_is_free() const {
  std::array<pollfd, kSocketsPerMessageMax> numbers{};
  if (limit_ < size_ || size_ > numbers.size()) return false;
  for (std::size_t i = 0; i < size_; ++i)
    numbers[i].fd = static_cast<int>(limit_ - 1 - i);
  if (::poll(numbers.data(), size_, 0) != static_cast<int>(size_)) return false;
  return std::all_of(numbers.begin(), numbers.begin() + static_cast<std::ptrdiff_t>(size_),
                     [](const pollfd& number) { return (number.revents & POLLNVAL) != 0; });
}

bool DescriptorReserve::lend() {
  if (top_of_table_is_free()) return true;
  if (!fill()) return false;
  release();
  lent_ = true;
  return true;
}

void DescriptorReserve::give_back() {
  if (!lent_) return;
  lent_ = false;
  fill();  // as far as it goes: the next lend() tries again
}

}  // namespace tcpmux::handoff
