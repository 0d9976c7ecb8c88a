// The command line of tcpmux-sim.
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/sim/dials.h"

namespace tcpmux::sim {

struct Options {
  std::uint64_t first_seed = 1;
  std::uint64_t last_seed = 1;  // included
  std::int64_t seconds = 0;     // above 0: seeds from first_seed on, for so long
  std::vector<std::pair<Dial, std::int64_t>> dials;
  std::string plant;
  std::string json;
  bool trace = false;
  bool twice = false;  // each seed runs twice, and must come out the same
  bool quiet = false;
  bool shrinks = true;
};

// An exit code when the program must end here.
std::expected<Options, int> parse_options(int argc, const char* const* argv);

}  // namespace tcpmux::sim
