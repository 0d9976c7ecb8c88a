// What a failure says about how to replay it.
#pragma once

#include <string>

namespace tcpmux::sim {

// Set beforehand: the command that replays the seed, but for the seed itself.
struct Replay {
  std::string program;
  std::string options;  // " --dial x=y", and what was planted
  bool quiet = false;   // say nothing, and look for no smaller failure
  bool shrinks = true;
};
extern Replay replay;

}  // namespace tcpmux::sim
