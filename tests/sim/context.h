// What all parts of one simulated world share: its time, its chance, its dials, what is to happen
// when, and the trace.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/base/clock.h"
#include "tests/sim/dials.h"
#include "tests/sim/random.h"
#include "tests/sim/trace.h"

namespace tcpmux::sim {

inline constexpr std::int64_t kMicro_ns = 1000;

// Something that happens to the world at its time. `a` and `b` name whom it concerns.
struct Happening {
  enum class Kind : std::uint8_t {
    kClientComes,
    kClientSends,  // a: client, b: its generation
    kClientReads,
    kClientUnblocks,
    kBackendReceives,  // a: backend's place, b: its generation
    kBackendWakes,
    kBackendDrops,   // a: client, b: its generation
    kBackendSpeaks,  // to the registry; a: backend's place, b: its generation
    kBackendHears,   // from it; the same
    kSteward,        // one may have something to do
    kMail,           // a: the process's first shard, b: channel
    kChange,         // something in the mux's surroundings may change
  };
  std::int64_t at_ns = 0;
  std::uint64_t order = 0;
  Kind kind = Kind::kChange;
  std::uint32_t a = 0;
  std::uint32_t b = 0;
};

struct Context {
  Context(std::uint64_t of, bool prints) : seed(of), random(of), dials(random), trace(prints) {
    agenda.reserve(1024);
  }

  // True as often as the dial says.
  bool fault(Dial dial) {
    const std::int64_t chance = dials[dial];
    if (chance == 0 || !random.per_mille(chance)) return false;
    ++injected[static_cast<std::size_t>(dial)];
    return true;
  }
  std::int64_t ms(Dial dial) const { return dials[dial] * kNanosPerMilli; }
  void note(What what, std::uint64_t subject, std::int64_t detail = 0) {
    trace.note(now_ns, shard, what, subject, detail);
  }

  void schedule(std::int64_t after_ns, Happening::Kind kind, std::uint32_t a = 0,
                std::uint32_t b = 0) {
    agenda.push_back({now_ns + after_ns, next_order++, kind, a, b});
    std::push_heap(agenda.begin(), agenda.end(), later);
  }
  std::int64_t next_ns() const { return agenda.empty() ? kNever_ns : agenda.front().at_ns; }
  Happening take_next() {
    std::pop_heap(agenda.begin(), agenda.end(), later);
    const Happening next = agenda.back();
    agenda.pop_back();
    return next;
  }

  std::uint64_t seed;
  Random random;
  Dials dials;
  Trace trace;
  std::int64_t now_ns = 1'000 * kNanosPerSecond;
  std::int64_t real_ahead_ns = 1'700'000'000 * kNanosPerSecond;
  std::uint32_t shard = kNobody;  // whose turn it is
  std::array<std::uint64_t, kDialCount> injected{};

 private:
  static bool later(const Happening& a, const Happening& b) {
    return a.at_ns != b.at_ns ? a.at_ns > b.at_ns : a.order > b.order;
  }
  std::vector<Happening> agenda;  // a heap
  std::uint64_t next_order = 0;
};

// The world that runs, for what the linker puts in the place of the kernel (seams.cc), and for the
// report of a failure.
extern Context* running;

// An invariant is broken: tells the seed, how to replay it, the dials and the end of the trace, and
// ends the process with exit code 1. `invariant` is its number in ARCHITECTURE.md; 0: the engine's
// contract, or a CHECK.
[[noreturn]] void broken(int invariant, const std::string& what);

// While one lives, the code of the simulator may allocate in the middle of a shard's turn.
extern bool allocation_forbidden;
class Outside {
 public:
  Outside() : before_(allocation_forbidden) { allocation_forbidden = false; }
  ~Outside() { allocation_forbidden = before_; }
  Outside(const Outside&) = delete;
  Outside& operator=(const Outside&) = delete;

 private:
  bool before_;
};

}  // namespace tcpmux::sim
