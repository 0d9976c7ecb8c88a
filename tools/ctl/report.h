// The daemon's replies, for a person. What a reply lacks (an older or newer daemon) is left out.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace ctl {

// A page: state, addresses, backends and counters, in aligned columns.
std::string status_page(const nlohmann::json& reply);

// "1 h 2 min", "3 min", "12 s".
std::string duration_words(double seconds);

}  // namespace ctl
