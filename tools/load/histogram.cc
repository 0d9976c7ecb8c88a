#include "tools/load/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace load {

Histogram::Histogram() : buckets_(kBuckets) {}

void Histogram::record(std::int64_t value_ns) {
  const std::int64_t value = std::clamp(value_ns, std::int64_t{0}, kValueMax);
  ++buckets_[bucket_of(static_cast<std::uint64_t>(value))];
  ++count_;
  sum_ += static_cast<double>(value);
  min_ = std::min(min_, value);
  max_ = std::max(max_, value);
}

void Histogram::merge(const Histogram& other) {
  for (std::size_t i = 0; i < kBuckets; ++i)
    buckets_[i] += other.buckets_[i];
  count_ += other.count_;
  sum_ += other.sum_;
  min_ = std::min(min_, other.min_);
  max_ = std::max(max_, other.max_);
}

double Histogram::mean() const {
  return count_ == 0 ? 0 : sum_ / static_cast<double>(count_);
}

std::int64_t Histogram::percentile(double part) const {
  if (count_ == 0) return 0;
  const auto wanted = static_cast<std::uint64_t>(std::ceil(part * static_cast<double>(count_)));
  const std::uint64_t rank = std::clamp<std::uint64_t>(wanted, 1, count_);
  if (rank == count_) return max_;
  std::uint64_t passed = 0;
  std::size_t bucket = 0;
  while ((passed += buckets_[bucket]) < rank)
    ++bucket;
  return std::clamp(middle_of(bucket), min_, max_);
}

std::size_t Histogram::bucket_of(std::uint64_t value) {
  const int bits = static_cast<int>(std::bit_width(value));
  if (bits <= kLinearBits) return value;
  // The value's first kLinearBits bits, of which the first is a one, name the bucket.
  const int shift = bits - kLinearBits;
  return (value >> shift) + static_cast<std::size_t>(shift) * kPerPower;
}

std::int64_t Histogram::middle_of(std::size_t bucket) {
  if (bucket < 2 * kPerPower) return static_cast<std::int64_t>(bucket);
  const std::size_t shift = bucket / kPerPower - 1;
  const std::uint64_t low = (bucket - shift * kPerPower) << shift;
  return static_cast<std::int64_t>(low + (std::uint64_t{1} << shift) / 2);
}

}  // namespace load
