// What happened, in order: the last lines are printed when an invariant breaks, and their hash says
// whether two runs were the same.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace tcpmux::sim {

inline constexpr std::uint32_t kNobody = 255;  // where no shard is meant

enum class What : std::uint8_t {
  kConnects,
  kSends,
  kFin,
  kReset,
  kReads,
  kAccepted,
  kAcceptFails,
  kAcceptEnds,
  kPeeks,
  kDiscards,
  kReplies,
  kDrains,
  kOperationFails,
  kCancelled,
  kShutsWrite,
  kCloses,
  kDismissed,
  kShed,
  kPasses,
  kAdopts,
  kSent,
  kSendFails,
  kTakenBack,
  kBackendReceives,
  kBackendDrops,
  kClientEnds,
  kTurn,
  kSpuriousWait,
  kMail,
  kMailFull,
  kRegisters,
  kLoses,
  kDies,
  kStalls,
  kWakes,
  kDrainsBackend,
  kLaneReturns,
  kLaneBroken,
  kConnectsToRegistry,
  kSpeaks,
  kTwin,
  kWelcomed,
  kRefusedBackend,
  kRegistryEnds,
  kPathRemoved,
  kTable,
  kLeaveFirst,
  kShutdown,
  kStop,
  kDone,
  kPause,
  kJump,
  kRealJump,
  kUpgradeBegins,
  kUpgradeFails,
  kUpgradeServes,
  kPassesOn,
  kCount,
};

class Trace {
 public:
  explicit Trace(bool prints) : prints_(prints) {}

  // `subject` and `detail` mean what the line's text says.
  void note(std::int64_t at_ns, std::uint32_t shard, What what, std::uint64_t subject,
            std::int64_t detail) {
    hash_ = mix(mix(hash_, static_cast<std::uint64_t>(at_ns)),
                (subject << 16) ^ (std::uint64_t{shard} << 8) ^ static_cast<std::uint64_t>(what));
    hash_ = mix(hash_, static_cast<std::uint64_t>(detail));
    Line& line = lines_[count_++ % lines_.size()];
    line = {at_ns, subject, detail, static_cast<std::uint8_t>(shard), what};
    if (prints_) [[unlikely]]
      print(line);
  }
  std::uint64_t hash() const { return hash_; }
  // The newest lines, oldest first, to stderr.
  void print_last(std::size_t most) const;

 private:
  struct Line {
    std::int64_t at_ns;
    std::uint64_t subject;
    std::int64_t detail;
    std::uint8_t shard;
    What what;
  };
  static std::uint64_t mix(std::uint64_t hash, std::uint64_t word) {
    hash = (hash ^ word) * 0x9E3779B97F4A7C15;
    return hash ^ (hash >> 29);
  }
  static void print(const Line& line);

  std::array<Line, 512> lines_{};
  std::uint64_t count_ = 0;
  std::uint64_t hash_ = 0;
  bool prints_;
};

}  // namespace tcpmux::sim
