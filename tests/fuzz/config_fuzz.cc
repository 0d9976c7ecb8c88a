// Any bytes as a configuration file: a Config or an error with its place, never a crash or a leak.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "core/server/config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const tcpmux::Result<tcpmux::Config> config = tcpmux::parse_config(text, "fuzz.toml");
  if (config) {
    // Nothing half-configured: what was accepted can be started with.
    if (config->listen.empty() || config->shards > tcpmux::kShardsMax) std::abort();
    const tcpmux::ServiceTable& services = config->services;
    for (tcpmux::ServiceId id = 0; id < services.size(); ++id)
      if (services.find(services[id].name) != id) std::abort();
  } else if (!config.error().message.starts_with("fuzz.toml:")) {
    std::abort();
  }
  return 0;
}
