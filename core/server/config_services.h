// The [services.NAME] part of the configuration file.
#pragma once

#include <cstdint>

#include "core/mux/service_table.h"
#include "core/server/config_reader.h"

namespace tcpmux {

// `services` may be nullptr: no service. `line_bytes_max` is that of the handshake: a name that
// does not fit a request line could never be asked for. Complaints go to `reading`; the table
// means something only when there are none.
ServiceTable read_services(Reading& reading, const toml::table* services,
                           std::uint32_t line_bytes_max);

}  // namespace tcpmux
