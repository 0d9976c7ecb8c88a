// The C++ face of libtcpmux (C++17, header only, over the C ABI of backend.h, which says what each
// call does, and what about threads and fork).
//
//     tcpmux::Backend backend({"hello"});
//     while (std::optional<tcpmux::Client> client = backend.accept())
//       ::write(client->socket(), "hello\r\n", 7);
//
// A Client closes its socket unless it is released.
#ifndef TCPMUX_BACKEND_HPP
#define TCPMUX_BACKEND_HPP

#include <tcpmux/backend.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tcpmux {

// What a call that cannot go on throws. what() is a line for a person.
class BackendError : public std::runtime_error {
 public:
  BackendError(tcpmux_result result, int refusal, const std::string& what)
      : std::runtime_error(what), result_(result), refusal_(refusal) {}
  tcpmux_result result() const noexcept { return result_; }
  // With result() TCPMUX_REFUSED: the mux's code, a tcpmux_refusal_code.
  int refusal() const noexcept { return refusal_; }

 private:
  tcpmux_result result_;
  int refusal_;
};

// See tcpmux_options for what each means; an empty `registry` is the default.
struct BackendOptions {
  std::string registry;
  std::uint32_t window = 0;
  std::uint16_t batch = 0;
  std::uint16_t lanes = 0;
  bool nonblocking = false;
  bool wait_for_mux = false;
  bool without_addresses = false;
  std::chrono::milliseconds open_timeout{0};
  std::chrono::milliseconds retry_first{0};
  std::chrono::milliseconds retry_last{0};
};

// One client: its socket, owned, and what the mux says of it. Move-only.
class Client {
 public:
  Client() = default;
  Client(int socket, const tcpmux_facts& facts)
      : socket_(socket),
        source_(facts.client),
        destination_(facts.destination),
        service_(facts.service),
        accepted_(std::chrono::nanoseconds(facts.accepted_ns)) {
    for (std::size_t i = 0; i < id_.size(); ++i)
      id_[i] = facts.id[i];
  }
  Client(Client&& other) noexcept { *this = std::move(other); }
  Client& operator=(Client&& other) noexcept {
    if (this == &other) return *this;
    close();
    socket_ = std::exchange(other.socket_, -1);
    source_ = other.source_;
    destination_ = other.destination_;
    service_ = std::move(other.service_);
    id_ = other.id_;
    accepted_ = other.accepted_;
    return *this;
  }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  ~Client() { close(); }

  int socket() const noexcept { return socket_; }
  // Gives the socket away: the caller closes it.
  [[nodiscard]] int release() noexcept { return std::exchange(socket_, -1); }
  void close() noexcept {
    if (socket_ >= 0) ::close(std::exchange(socket_, -1));
  }

  const std::string& service() const noexcept { return service_; }
  const sockaddr_storage& source() const noexcept { return source_; }
  const sockaddr_storage& destination() const noexcept { return destination_; }
  const std::array<std::uint8_t, 16>& id() const noexcept { return id_; }
  // Since 1970.
  std::chrono::nanoseconds accepted() const noexcept { return accepted_; }

  // "192.0.2.7:50000"
  std::string source_text() const { return address_text(source_); }
  std::string destination_text() const { return address_text(destination_); }
  std::string id_text() const {
    constexpr char kDigits[] = "0123456789abcdef";
    std::string text;
    for (const std::uint8_t byte : id_) {
      text += kDigits[byte >> 4];
      text += kDigits[byte & 15];
    }
    return text;
  }

 private:
  static std::string address_text(const sockaddr_storage& address) {
    char text[64];
    return tcpmux_address_text(&address, text, sizeof text);
  }

  int socket_ = -1;
  sockaddr_storage source_{};
  sockaddr_storage destination_{};
  std::string service_;
  std::array<std::uint8_t, 16> id_{};
  std::chrono::nanoseconds accepted_{0};
};

// A registration. Move-only; a moved-from Backend can be destroyed or assigned to, nothing else.
class Backend {
 public:
  // Throws BackendError where tcpmux_open fails.
  explicit Backend(const std::vector<std::string>& services, const BackendOptions& options = {}) {
    std::vector<const char*> names;
    for (const std::string& service : services)
      names.push_back(service.c_str());
    const tcpmux_options plain = c_options(options);
    const tcpmux_result result = tcpmux_open(&handle_, names.data(), names.size(), &plain);
    if (result != TCPMUX_OK)
      throw BackendError(result, tcpmux_refusal(nullptr), tcpmux_error(nullptr));
  }
  Backend(Backend&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Backend& operator=(Backend&& other) noexcept {
    if (this == &other) return *this;
    tcpmux_close(handle_);
    handle_ = std::exchange(other.handle_, nullptr);
    return *this;
  }
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;
  ~Backend() { tcpmux_close(handle_); }

  // Waits for ever. Nothing when a signal handler ran, or when the backend was drained to its end.
  // Clients lost for want of descriptors are only counted; other trouble throws BackendError.
  std::optional<Client> accept() { return accept_for(-1); }
  // Waits so long; 0 does not wait. Nothing when nobody came.
  std::optional<Client> accept(std::chrono::milliseconds timeout) {
    return accept_for(static_cast<int>(timeout.count()));
  }
  // Does not wait, and throws nothing but std::bad_alloc; `client` is set exactly when it gives
  // TCPMUX_OK.
  tcpmux_result try_accept(Client& client) { return accept_into(client, 0); }

  int descriptor() noexcept { return tcpmux_descriptor(handle_); }
  tcpmux_state state() const noexcept { return tcpmux_get_state(handle_); }
  const tcpmux_counters& counters() const noexcept { return *tcpmux_get_counters(handle_); }
  std::string_view registry() const noexcept { return tcpmux_registry(handle_); }
  std::string_view error() const noexcept { return tcpmux_error(handle_); }
  int refusal() const noexcept { return tcpmux_refusal(handle_); }
  void drain() { tcpmux_drain(handle_); }
  tcpmux_backend* handle() noexcept { return handle_; }

 private:
  static tcpmux_options c_options(const BackendOptions& from) {
    tcpmux_options to = TCPMUX_OPTIONS_INIT;
    to.registry = from.registry.empty() ? nullptr : from.registry.c_str();
    to.window = from.window;
    to.batch = from.batch;
    to.lanes = from.lanes;
    to.nonblocking = from.nonblocking ? 1 : 0;
    to.wait_for_mux = from.wait_for_mux ? 1 : 0;
    to.without_addresses = from.without_addresses ? 1 : 0;
    to.open_timeout_ms = static_cast<int>(from.open_timeout.count());
    to.retry_first_ms = static_cast<int>(from.retry_first.count());
    to.retry_last_ms = static_cast<int>(from.retry_last.count());
    return to;
  }

  tcpmux_result accept_into(Client& client, int timeout_ms) {
    int socket = -1;
    const tcpmux_facts* facts = nullptr;
    const tcpmux_result result = tcpmux_accept(handle_, timeout_ms, &socket, &facts);
    if (result == TCPMUX_OK) client = Client(socket, *facts);
    return result;
  }

  std::optional<Client> accept_for(int timeout_ms) {
    Client client;
    tcpmux_result result = TCPMUX_LOST;
    while (result == TCPMUX_LOST)
      result = accept_into(client, timeout_ms);
    if (result == TCPMUX_OK) return client;
    if (result > TCPMUX_OK) return std::nullopt;
    throw BackendError(result, tcpmux_refusal(handle_), tcpmux_error(handle_));
  }

  tcpmux_backend* handle_ = nullptr;
};

}  // namespace tcpmux

#endif
