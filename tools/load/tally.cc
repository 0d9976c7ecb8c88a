#include "tools/load/tally.h"

namespace load {

void Tally::count(Kind kind, Outcome outcome) {
  ++outcomes[static_cast<std::size_t>(outcome)];
  OfKind& of_kind = kinds[static_cast<std::size_t>(kind)];
  if (outcome == Outcome::kCompleted) ++of_kind.completed;
  if (is_failure(outcome)) ++of_kind.failed;
}

void Tally::count_denial(std::string_view text) {
  const auto found = denials.find(text);
  if (found != denials.end()) {
    ++found->second;
  } else if (denials.size() < kDenialsMax) {
    denials.emplace(text, 1);
  } else {
    ++denials["other"];
  }
}

void Tally::merge(const Tally& other) {
  started += other.started;
  accepted += other.accepted;
  messages += other.messages;
  bytes_echoed += other.bytes_echoed;
  for (std::size_t i = 0; i < kOutcomeCount; ++i)
    outcomes[i] += other.outcomes[i];
  for (std::size_t i = 0; i < kKindCount; ++i) {
    kinds[i].completed += other.kinds[i].completed;
    kinds[i].failed += other.kinds[i].failed;
  }
  for (const auto& [reply_text, times] : other.denials)
    denials[reply_text] += times;
  connect.merge(other.connect);
  reply.merge(other.reply);
  first_byte.merge(other.first_byte);
  round_trip.merge(other.round_trip);
}

std::uint64_t Tally::failed() const {
  std::uint64_t failures = 0;
  for (std::size_t i = kFirstFailure; i < kFailuresEnd; ++i)
    failures += outcomes[i];
  return failures;
}

}  // namespace load
