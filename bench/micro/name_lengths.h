// The lengths of names that benchmarks are run with: a usual one, a long one, the longest.
#pragma once

#include <benchmark/benchmark.h>

namespace bench {

inline void name_lengths(benchmark::internal::Benchmark* one) {
  one->Arg(4)->Arg(32)->Arg(255);
}

}  // namespace bench
