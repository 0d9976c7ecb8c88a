// The immutable map from a service's name to the service. It is built once and swapped whole;
// shards read it without a lock. A ServiceId stays valid in every later table of one process.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/result.h"
#include "core/mux/policy.h"

namespace tcpmux {

using ServiceId = std::uint32_t;
inline constexpr ServiceId kNoService = UINT32_MAX;
inline constexpr std::size_t kServiceNameBytesMax = 255;  // one length byte in PROTOCOL.md
inline constexpr std::size_t kServiceMessageBytesMax = 512;

struct Service {
  std::string name;       // as configured; compared without ASCII case
  std::string message{};  // after '+'; at most 512 bytes, no CR or LF
  AccessRules access{};
  std::vector<uid_t> users{};   // who may register it, besides those of the registry
  bool hidden = false;          // not in HELP; to a source that is not allowed: unknown
  bool coalesce_reply = false;  // '+' waits for the backend's first bytes (MSG_MORE)
  bool configured = true;       // false: known only because a backend registered it
  bool removed = false;         // was taken out of the configuration: unknown to clients
};

// Why `name` cannot be a service's name, or nothing: 1 to 255 bytes of 0x21 to 0x7E, and not
// "help" in any case (RFC 1078 reserves it).
std::optional<std::string> why_not_a_service_name(std::string_view name);

class ServiceTable {
 public:
  // Two names that differ only in case are a clash. Ids are given in the order of `services`.
  static Result<ServiceTable> build(std::vector<Service> services);

  // This table and one more service: behind all others, which keep their ids, or in the place of
  // one of the same name that was removed.
  Result<ServiceTable> with(Service service) const;

  // The services of this table, with the ids that those of the same name had in `before`. What only
  // `before` has keeps its id and is marked as removed; what nobody had configured there stays as
  // it is where `keep_unconfigured` (backends may still serve it).
  ServiceTable after(const ServiceTable& before, bool keep_unconfigured) const;

  // kNoService where there is none. Any bytes may be asked for. Allocates nothing; its cost does
  // not grow with the number of services.
  ServiceId find(std::string_view name) const;

  const Service& operator[](ServiceId id) const { return services_[id]; }
  std::size_t size() const { return services_.size(); }
  // "+MESSAGE\r\n" ("+\r\n" without a message), made beforehand.
  std::string_view accept_reply(ServiceId id) const;
  // The names that are not hidden, sorted without case, each with CRLF: the answer to HELP.
  std::string_view help_reply() const { return help_reply_; }

 private:
  std::vector<Service> services_;
  std::vector<std::string> accept_replies_;
  std::vector<ServiceId> buckets_;     // open addressing, a power of two, at most half full
  std::vector<std::uint32_t> hashes_;  // of each service's name, compared before the name is
  std::string help_reply_;
};

}  // namespace tcpmux
