// The histogram against sorted samples: what it promises of every value, and of what it adds up.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "tools/load/histogram.h"

namespace load {
namespace {

constexpr double kErrorMax = 0.0005;  // half a bucket that is a thousandth wide

// As different in size as durations are: evenly over the powers of two.
std::vector<std::int64_t> samples(std::size_t count, unsigned seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> power(0, 40);
  std::vector<std::int64_t> values(count);
  for (std::int64_t& value : values)
    value = static_cast<std::int64_t>(std::exp2(power(random)));
  return values;
}

Histogram of(const std::vector<std::int64_t>& values) {
  Histogram histogram;
  for (const std::int64_t value : values)
    histogram.record(value);
  return histogram;
}

std::int64_t exact(const std::vector<std::int64_t>& sorted, double part) {
  const auto rank = static_cast<std::size_t>(std::ceil(part * static_cast<double>(sorted.size())));
  return sorted[std::max<std::size_t>(rank, 1) - 1];
}

void expect_near(std::int64_t actual, std::int64_t expected) {
  EXPECT_LE(std::abs(actual - expected), static_cast<double>(expected) * kErrorMax + 0.5)
      << actual << " for " << expected;
}

TEST(LoadHistogram, HoldsEveryValueToHalfAThousandth) {
  std::vector<std::int64_t> values = samples(2000, 1);
  for (int power = 0; power < 41; ++power)
    for (const std::int64_t beside : {-1, 0, 1})
      values.push_back((std::int64_t{1} << power) + beside);
  for (const std::int64_t value : values) {
    Histogram histogram;
    histogram.record(0);
    histogram.record(value);
    histogram.record(Histogram::kValueMax);
    expect_near(histogram.percentile(0.5), value);
  }
}

TEST(LoadHistogram, SmallValuesAreExact) {
  for (std::int64_t value = 0; value < 2048; ++value) {
    Histogram histogram;
    histogram.record(0);
    histogram.record(value);
    histogram.record(Histogram::kValueMax);
    EXPECT_EQ(histogram.percentile(0.5), value);
  }
}

TEST(LoadHistogram, PercentilesAreThoseOfSortedSamples) {
  std::vector<std::int64_t> values = samples(12'345, 2);
  const Histogram histogram = of(values);
  std::ranges::sort(values);
  for (const double part : {0.0, 0.001, 0.1, 0.25, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0})
    expect_near(histogram.percentile(part), exact(values, part));
}

TEST(LoadHistogram, MeanMinAndMaxAreExact) {
  const Histogram histogram = of({3'000'001, 5, 1'000'000'007});
  EXPECT_EQ(histogram.count(), 3u);
  EXPECT_EQ(histogram.min(), 5);
  EXPECT_EQ(histogram.max(), 1'000'000'007);
  EXPECT_DOUBLE_EQ(histogram.mean(), (3'000'001.0 + 5 + 1'000'000'007) / 3);
}

TEST(LoadHistogram, NoPercentileIsOutsideOfWhatWasSeen) {
  const Histogram histogram = of({1'000'001});
  for (const double part : {0.0, 0.5, 1.0})
    EXPECT_EQ(histogram.percentile(part), 1'000'001);
}

TEST(LoadHistogram, MergingIsRecordingIntoOne) {
  const std::vector<std::int64_t> first = samples(1000, 3);
  const std::vector<std::int64_t> second = samples(700, 4);
  std::vector<std::int64_t> both = first;
  both.insert(both.end(), second.begin(), second.end());
  Histogram merged = of(first);
  merged.merge(of(second));
  merged.merge(Histogram());
  const Histogram expected = of(both);
  EXPECT_EQ(merged.count(), expected.count());
  EXPECT_EQ(merged.min(), expected.min());
  EXPECT_EQ(merged.max(), expected.max());
  EXPECT_NEAR(merged.mean(), expected.mean(), expected.mean() * 1e-12);
  for (double part = 0; part <= 1; part += 0.01)
    EXPECT_EQ(merged.percentile(part), expected.percentile(part));
}

TEST(LoadHistogram, WhatIsBeyondItsRangeCountsAsItsEnd) {
  const Histogram histogram = of({-5, INT64_MAX});
  EXPECT_EQ(histogram.min(), 0);
  EXPECT_EQ(histogram.max(), Histogram::kValueMax);
  EXPECT_EQ(histogram.percentile(0.5), 0);
  EXPECT_EQ(histogram.percentile(1), Histogram::kValueMax);
}

TEST(LoadHistogram, AnEmptyOneIsAllZero) {
  const Histogram histogram;
  EXPECT_EQ(histogram.count(), 0u);
  EXPECT_EQ(histogram.min(), 0);
  EXPECT_EQ(histogram.max(), 0);
  EXPECT_EQ(histogram.mean(), 0);
  EXPECT_EQ(histogram.percentile(0.5), 0);
}

}  // namespace
}  // namespace load
