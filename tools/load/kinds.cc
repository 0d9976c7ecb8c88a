#include "tools/load/kinds.h"

#include <algorithm>
#include <charconv>
#include <numeric>

namespace load {
namespace {

std::string all_names() {
  std::string names;
  for (const std::string_view name : kKindNames)
    names.append(names.empty() ? "" : ", ").append(name);
  return names;
}

tcpmux::Result<std::uint32_t> parse_weight(std::string_view text) {
  std::uint32_t weight = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), weight);
  if (error != std::errc{} || end != text.data() + text.size() || weight < 1 ||
      weight > KindMix::kWeightMax)
    return tcpmux::fail("weight '" + std::string(text) + "' is not a whole number from 1 to " +
                        std::to_string(KindMix::kWeightMax));
  return weight;
}

}  // namespace

KindMix::KindMix(Kind kind) {
  weights_ = {};
  weights_[static_cast<std::size_t>(kind)] = 1;
}

tcpmux::Result<KindMix> KindMix::parse(std::string_view text) {
  KindMix mix;
  mix.weights_ = {};
  for (std::string_view rest = text;;) {
    const std::string_view part = rest.substr(0, rest.find(','));
    const std::string_view name = part.substr(0, part.find('='));
    const auto found = std::ranges::find(kKindNames, name);
    if (found == kKindNames.end())
      return tcpmux::fail("'" + std::string(name) + "' is no kind; there are " + all_names());
    std::uint32_t& weight = mix.weights_[static_cast<std::size_t>(found - kKindNames.begin())];
    if (weight > 0) return tcpmux::fail("'" + std::string(name) + "' is given twice");
    weight = 1;
    if (name.size() < part.size()) {
      const auto parsed = parse_weight(part.substr(name.size() + 1));
      if (!parsed) return std::unexpected(parsed.error());
      weight = *parsed;
    }
    if (part.size() == rest.size()) return mix;
    rest.remove_prefix(part.size() + 1);
  }
}

Kind KindMix::next() {
  std::size_t best = 0;
  std::int64_t total = 0;
  for (std::size_t i = 0; i < kKindCount; ++i) {
    credit_[i] += weights_[i];
    total += weights_[i];
    if (weights_[i] > 0 && (weights_[best] == 0 || credit_[i] > credit_[best])) best = i;
  }
  credit_[best] -= total;
  return static_cast<Kind>(best);
}

bool KindMix::has_only(Kind kind) const {
  const std::uint64_t total = std::accumulate(weights_.begin(), weights_.end(), std::uint64_t{0});
  return total == weights_[static_cast<std::size_t>(kind)];
}

std::string KindMix::text() const {
  std::string text;
  for (std::size_t i = 0; i < kKindCount; ++i) {
    const auto kind = static_cast<Kind>(i);
    if (!has(kind)) continue;
    text.append(text.empty() ? "" : ",").append(to_string(kind));
    if (!has_only(kind)) text.append("=").append(std::to_string(weights_[i]));
  }
  return text;
}

}  // namespace load
