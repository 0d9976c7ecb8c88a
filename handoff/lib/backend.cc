// The C functions of <tcpmux/backend.h>: they check what they are given, and let no exception out.
#include <tcpmux/backend.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "core/base/address.h"
#include "core/base/result.h"
#include "handoff/lib/backend_session.h"
#include "handoff/message.h"

using tcpmux::fail;
using tcpmux::Result;
using tcpmux::handoff::BackendSession;
using tcpmux::handoff::SessionOptions;

struct tcpmux_backend {
  explicit tcpmux_backend(SessionOptions options) : session(std::move(options)) {}
  BackendSession session;
};

namespace {

constexpr std::uint16_t kBatchDefault = 8;
constexpr int kOpenTimeoutDefault_ms = 5000;
constexpr int kRetryFirstDefault_ms = 50;
constexpr int kRetryLastDefault_ms = 5000;
constexpr std::size_t kPathBytesMax = 107;  // sockaddr_un
constexpr const char* kNoMemory = "out of memory";

struct OpenFailure {
  std::string error;
  int refusal = 0;
};
OpenFailure& open_failure() {
  thread_local OpenFailure failure;
  return failure;
}

tcpmux_result fail_open(tcpmux_result result, std::string error, int refusal = 0) {
  open_failure() = {.error = std::move(error), .refusal = refusal};
  return result;
}

// Reads the options of a caller that may have been compiled with an older or a newer header.
Result<tcpmux_options> read_options(const tcpmux_options* from) {
  tcpmux_options options{};
  if (from == nullptr) return options;
  if (from->size < sizeof from->size)
    return fail("tcpmux_options: set `size`, or begin with TCPMUX_OPTIONS_INIT");
  std::memcpy(&options, from, std::min(from->size, sizeof options));
  const auto* bytes = reinterpret_cast<const unsigned char*>(from);
  for (std::size_t i = sizeof options; i < from->size; ++i) {
    if (bytes[i] != 0) return fail("tcpmux_options: an option that this library does not know yet");
  }
  return options;
}

std::string registry_path(const char* given) {
  if (given != nullptr) return given;
  const char* environment = ::secure_getenv("TCPMUX_REGISTRY");
  return environment != nullptr && *environment != '\0' ? environment : TCPMUX_REGISTRY_DEFAULT;
}

Result<std::vector<std::byte>> registration(const char* const* services, std::size_t count,
                                            const tcpmux_options& options) {
  using namespace tcpmux::handoff;
  if (services == nullptr || count < 1 || count > kNamesMax)
    return fail("a backend serves 1 to 64 names, not " + std::to_string(count));
  if (options.batch > kSocketsPerMessageMax)
    return fail("batch is at most 64, not " + std::to_string(options.batch));
  if (options.lanes > kLanesMax)
    return fail("lanes are at most 64, not " + std::to_string(options.lanes));
  Register message{.window = options.window,
                   .batch = options.batch == 0 ? kBatchDefault : options.batch,
                   .lanes = options.lanes,
                   .without_addresses = options.without_addresses != 0,
                   .names = {}};
  for (std::size_t i = 0; i < count; ++i) {
    message.names.emplace_back(services[i] == nullptr ? "" : services[i]);
    if (message.names.back().empty() || message.names.back().size() > 255)
      return fail("a service's name has 1 to 255 bytes");
  }
  std::vector<std::byte> bytes = encode(message);
  if (bytes.size() > kMessageBytesMax) return fail("the names are too long for one message");
  return bytes;
}

int or_default(int given, int standard) {
  return given > 0 ? given : standard;
}

Result<SessionOptions> session_options(const char* const* services, std::size_t count,
                                       const tcpmux_options* given) {
  const Result<tcpmux_options> options = read_options(given);
  if (!options) return std::unexpected(options.error());
  SessionOptions session;
  session.registry = registry_path(options->registry);
  if (session.registry.empty() || session.registry.size() > kPathBytesMax)
    return fail("the registry's path must have 1 to 107 bytes: \"" + session.registry + "\"");
  Result<std::vector<std::byte>> bytes = registration(services, count, *options);
  if (!bytes) return std::unexpected(bytes.error());
  session.registration = std::move(*bytes);
  session.batch = options->batch == 0 ? kBatchDefault : options->batch;
  session.nonblocking = options->nonblocking != 0;
  session.wait_for_mux = options->wait_for_mux != 0;
  session.open_timeout_ms = or_default(options->open_timeout_ms, kOpenTimeoutDefault_ms);
  session.retry_first_ms = or_default(options->retry_first_ms, kRetryFirstDefault_ms);
  session.retry_last_ms = or_default(options->retry_last_ms, kRetryLastDefault_ms);
  return session;
}

tcpmux_result open_backend(tcpmux_backend*& backend, const char* const* services, std::size_t count,
                           const tcpmux_options* given) {
  open_failure() = {};
  Result<SessionOptions> options = session_options(services, count, given);
  if (!options) return fail_open(TCPMUX_ERROR, options.error().message);
  auto made = std::make_unique<tcpmux_backend>(std::move(*options));
  const tcpmux_result result = made->session.open();
  if (result != TCPMUX_OK) return fail_open(result, made->session.error(), made->session.refusal());
  backend = made.release();
  return TCPMUX_OK;
}

}  // namespace

tcpmux_result tcpmux_open(tcpmux_backend** backend, const char* const* services, size_t count,
                          const tcpmux_options* options) {
  *backend = nullptr;
  try {
    return open_backend(*backend, services, count, options);
  } catch (const std::bad_alloc&) {
    return fail_open(TCPMUX_ERROR, kNoMemory);  // short enough to need no memory
  }
}

tcpmux_result tcpmux_accept(tcpmux_backend* backend, int timeout_ms, int* socket,
                            const tcpmux_facts** facts) {
  *socket = -1;
  const tcpmux_facts* known = nullptr;
  try {
    const tcpmux_result result = backend->session.accept(timeout_ms, *socket, known);
    if (facts != nullptr) *facts = known;
    return result;
  } catch (const std::bad_alloc&) {
    return TCPMUX_ERROR;
  }
}

int tcpmux_descriptor(tcpmux_backend* backend) {
  return backend->session.descriptor();
}

tcpmux_state tcpmux_get_state(const tcpmux_backend* backend) {
  return backend->session.state();
}

const tcpmux_counters* tcpmux_get_counters(const tcpmux_backend* backend) {
  return &backend->session.counters();
}

const char* tcpmux_registry(const tcpmux_backend* backend) {
  return backend->session.registry().c_str();
}

const char* tcpmux_error(const tcpmux_backend* backend) {
  return backend == nullptr ? open_failure().error.c_str() : backend->session.error().c_str();
}

int tcpmux_refusal(const tcpmux_backend* backend) {
  return backend == nullptr ? open_failure().refusal : backend->session.refusal();
}

tcpmux_result tcpmux_drain(tcpmux_backend* backend) {
  backend->session.drain();
  return TCPMUX_OK;
}

void tcpmux_close(tcpmux_backend* backend) {
  if (backend == nullptr) return;
  backend->session.close();
  delete backend;
}

char* tcpmux_address_text(const struct sockaddr_storage* address, char* text, size_t size) {
  const tcpmux::Endpoint endpoint = tcpmux::endpoint_from(*address);
  const bool known = endpoint.address.family != tcpmux::IpAddress::Family::kNone;
  std::snprintf(text, size, "%s", known ? tcpmux::to_string(endpoint).c_str() : "unknown");
  return text;
}

const char* tcpmux_version(void) {
  return TCPMUX_VERSION;
}
