#include "core/server/memory_reserve.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string_view>
#include <thread>

namespace tcpmux {
namespace {

// More than one registration takes, with as many names and lanes as it may have. In pieces, so that
// an allocator can make other use of them.
constexpr std::size_t kPieceBytes = 64 * 1024;
constexpr std::size_t kPieces = 32;

// A handler of operator new has no arguments, so this is the process's.
struct Reserve {
  std::thread::id owner;  // nobody, until it may be used
  bool whole = false;
  std::array<void*, kPieces> pieces{};
};
Reserve reserve;

void release() {
  reserve.whole = false;
  for (void*& piece : reserve.pieces) {
    std::free(piece);
    piece = nullptr;
  }
}

// By malloc, which fails without calling the handler.
bool fill() {
  for (void*& piece : reserve.pieces) {
    piece = std::malloc(kPieceBytes);
    if (piece == nullptr) {
      release();
      return false;
    }
    std::memset(piece, 1, kPieceBytes);  // so that the memory is there, and not just promised
  }
  return reserve.whole = true;
}

}  // namespace

void out_of_memory() {
  const bool ours = reserve.owner == std::this_thread::get_id();
  if (ours && reserve.whole) return release();
  if (!ours && reserve.owner != std::thread::id()) throw std::bad_alloc();
  constexpr std::string_view kWhy =
      "tcpmuxd: out of memory; raise its limit (ulimit -v, MemoryMax=), or lower shards or "
      "handshake.connections_per_shard_max\n";
  [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, kWhy.data(), kWhy.size());
  ::_exit(1);
}

bool keep_memory_reserve() {
  return fill();
}

void use_memory_reserve() {
  reserve.owner = std::this_thread::get_id();
}

bool memory_is_there_for(std::size_t bytes) {
  if (reserve.owner != std::this_thread::get_id()) return true;
  if (!reserve.whole && !fill()) return false;
  void* volatile tried = std::malloc(bytes);  // volatile: or else the compiler leaves it out
  std::free(tried);
  return tried != nullptr;
}

}  // namespace tcpmux
