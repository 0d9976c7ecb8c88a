#include "tools/load/script.h"

#include <random>

namespace load {
namespace {

// Messages begin at different places of the pattern.
constexpr std::size_t kOffsets = 251;

}  // namespace

Script::Script(ScriptOptions options)
    : options_(std::move(options)),
      line_(options_.service + "\r\n"),
      pattern_(options_.message_bytes + kOffsets) {
  std::mt19937 random(1078);
  for (char& byte : pattern_)
    byte = static_cast<char>(random());
  early_.reserve(kVariants * (line_.size() + options_.message_bytes));
  for (std::size_t i = 0; i < kVariants; ++i) {
    const std::span<const char> payload = message(i);
    if (!options_.direct) early_.insert(early_.end(), line_.begin(), line_.end());
    early_.insert(early_.end(), payload.begin(), payload.end());
  }
}

std::span<const char> Script::half_line() const {
  const std::size_t half = (options_.service.size() + 1) / 2;
  return line().first(half);
}

std::span<const char> Script::message(std::uint64_t number) const {
  return std::span(pattern_).subspan(number % kOffsets, options_.message_bytes);
}

std::span<const char> Script::early(std::uint64_t number) const {
  const std::size_t size = early_.size() / kVariants;
  return std::span(early_).subspan(number % kVariants * size, size);
}

std::span<const char> Script::early_payload(std::uint64_t number) const {
  return early(number).last(options_.message_bytes);
}

}  // namespace load
