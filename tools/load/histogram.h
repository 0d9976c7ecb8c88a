// How often each duration was seen, in fixed memory: log-linear buckets, as in HdrHistogram with
// three significant digits.
//
// Up to 2^11 ns each value has a bucket of its own; above, each power of two has 2^10 of them, so a
// bucket is at most a thousandth of its values wide and its middle at most half of that off.
// Longer than 36 minutes counts as that. Recording costs a count of bits and an increment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace load {

class Histogram {
 public:
  static constexpr std::int64_t kValueMax = (std::int64_t{1} << 41) - 1;

  Histogram();

  void record(std::int64_t value_ns);
  void merge(const Histogram& other);

  std::uint64_t count() const { return count_; }
  // Exact. Of an empty histogram: 0, as are all that follow.
  std::int64_t min() const { return count_ == 0 ? 0 : min_; }
  std::int64_t max() const { return max_; }
  double mean() const;
  // The value that `part` (0 to 1) of all do not exceed: the middle of the bucket in which the
  // sample of rank ceil(part * count) fell, but never outside what was seen,
  // and of the last sample its very value.
  std::int64_t percentile(double part) const;

 private:
  static constexpr int kLinearBits = 11;
  static constexpr std::size_t kPerPower = std::size_t{1} << (kLinearBits - 1);
  static constexpr int kPowers = 41 - kLinearBits;
  static constexpr std::size_t kBuckets = (std::size_t{1} << kLinearBits) + kPowers * kPerPower;

  static std::size_t bucket_of(std::uint64_t value);
  static std::int64_t middle_of(std::size_t bucket);

  std::vector<std::uint64_t> buckets_;
  std::uint64_t count_ = 0;
  double sum_ = 0;
  std::int64_t min_ = INT64_MAX;
  std::int64_t max_ = 0;
};

}  // namespace load
