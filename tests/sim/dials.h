// Everything that one seed decides beforehand: how large the world is, and how often each fault
// strikes. Each has a name, so that a replay can turn one of them (--dial NAME=VALUE).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "tests/sim/random.h"

namespace tcpmux::sim {

enum class Dial : std::uint8_t {
  // --- the world's size and pace ---
  kConnections,
  kShards,
  kSlots,
  kBusySlots,
  kTakenBackSlots,
  kSpareDescriptors,
  kMailbox,
  kServices,
  kBackends,
  kWindow,
  kBatch,
  kLineBytesMax,
  kHandshakeMs,
  kRoomWaitMs,
  kStallMs,
  kHandoffMs,
  kDrainMs,
  kGapUs,
  kBackendUs,
  kLazyEngine,
  kLanesPerShard,
  kBackendDescriptors,
  kWindowsSum,
  kBufferPlaces,
  kRegisterMs,
  kOpenRegistry,
  // --- clients ---
  kSplit,
  kSlow,
  kSilent,
  kFin,
  kReset,
  kOddLine,
  kStaysOn,
  kTalksOn,
  kDoesNotRead,
  // --- the kernel ---
  kAcceptMfile,
  kAcceptNfile,
  kAcceptNoBufs,
  kAcceptAborted,
  kFullQueue,
  kLate,
  kReorder,
  kShortSend,
  kSendWaits,
  kCancelTooLate,
  kLaneFull,
  kLaneNoMemory,
  kTooManyRefs,
  // --- backends ---
  kStall,
  kDie,
  kRubbish,
  kShutsLane,
  kDrain,
  kRaw,
  kOneLane,
  kHold,
  kWakeRace,
  // --- backends and the registry ---
  kRegistersTwice,
  kRegistersAgain,
  kBadRegister,
  kAsksTooMuch,
  kNeverRegisters,
  kLeavesEarly,
  kDeaf,
  kRegistryFull,
  kRegistryAccept,
  kNoLane,
  kNoWatch,
  kPathRemoved,
  // --- the mux around its shards ---
  kSlowMail,
  kSlowSteward,
  kShardPause,
  kTableSwap,
  kUpgrade,
  kEarlyShutdown,
  kClockJump,
  kRealClockJump,
};
inline constexpr std::size_t kDialCount = static_cast<std::size_t>(Dial::kRealClockJump) + 1;

struct DialInfo {
  std::string_view name;
  std::int64_t least = 0;
  std::int64_t most = 0;
  bool is_fault = false;  // per mille of the occasions; 0 is off
  std::string_view meaning;
};
const DialInfo& info(Dial dial);
std::optional<Dial> find_dial(std::string_view name);

class Dials {
 public:
  // Half of the faults are off, and every eighth world is calm.
  explicit Dials(Random& random);
  std::int64_t operator[](Dial dial) const { return values_[static_cast<std::size_t>(dial)]; }
  void set(Dial dial, std::int64_t value) { values_[static_cast<std::size_t>(dial)] = value; }
  // "slots=16 split=120 ..." : the sizes, and the faults that are on.
  std::string text() const;

 private:
  std::array<std::int64_t, kDialCount> values_{};
};

}  // namespace tcpmux::sim
