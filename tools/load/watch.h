// What is said while a run goes on: the live line, and "holding N" when all are there.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>

#include "tools/load/options.h"
#include "tools/load/worker.h"

namespace load {

class Watch {
 public:
  Watch(const Options& options, bool is_measured);
  ~Watch();  // clears the line
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  // How often to look.
  std::chrono::milliseconds period() const;
  // False when the run cannot become what was asked for: some that were to be held are gone before
  // all were there.
  bool look(std::span<const Progress> progress);

 private:
  void draw(std::span<const Progress> progress);

  const Options& options_;
  const bool is_measured_;
  const bool live_;
  bool holding_ = false;
  bool drawn_ = false;
  std::int64_t begin_ns_ = 0;
  std::int64_t drawn_ns_ = 0;
  std::uint64_t completed_ = 0;  // when it was drawn last
};

}  // namespace load
