// What was counted and timed: by each thread for itself, and added up at the end.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "tools/load/histogram.h"
#include "tools/load/kinds.h"
#include "tools/load/outcome.h"

namespace load {

struct Tally {
  static constexpr std::size_t kDenialsMax = 64;  // different texts; further ones count as "other"

  struct OfKind {
    std::uint64_t completed = 0;
    std::uint64_t failed = 0;
  };

  std::uint64_t started = 0;
  std::uint64_t accepted = 0;  // told '+', whatever became of them then
  std::array<std::uint64_t, kOutcomeCount> outcomes{};
  std::array<OfKind, kKindCount> kinds{};
  std::map<std::string, std::uint64_t, std::less<>> denials;
  std::uint64_t messages = 0;
  std::uint64_t bytes_echoed = 0;

  Histogram connect;
  Histogram reply;
  Histogram first_byte;
  Histogram round_trip;

  void count(Kind kind, Outcome outcome);
  void count_denial(std::string_view text);
  void merge(const Tally& other);

  std::uint64_t of(Outcome outcome) const { return outcomes[static_cast<std::size_t>(outcome)]; }
  std::uint64_t completed() const { return of(Outcome::kCompleted); }
  std::uint64_t failed() const;
};

}  // namespace load
