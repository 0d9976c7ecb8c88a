// The summary of a run, for people and for programs.
#pragma once

#include <string>
#include <string_view>

#include "tools/load/measured.h"
#include "tools/load/options.h"

namespace load {

// `engine` is the one that was used: "io_uring" or "epoll".
std::string to_json(const Options& options, std::string_view engine, const Measured& measured);
std::string to_text(const Options& options, std::string_view engine, const Measured& measured);

}  // namespace load
