#include "core/server/control_socket.h"

#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/base/check.h"

namespace tcpmux {
namespace {

using nlohmann::json;

constexpr std::int64_t kAcceptPause_ns = kNanosPerSecond;

json failure(std::string why) {
  return {{"ok", false}, {"error", std::move(why)}};
}

// One line. Text that is no UTF-8 (a path may be anything) is mended, never thrown about.
std::string line_of(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

// Nothing is waited for: a client that is gone, or does not read, does not learn it.
void dismiss(int socket, const std::string& why) {
  const std::string line = line_of(failure(why));
  [[maybe_unused]] const ssize_t sent =
      ::send(socket, line.data(), line.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

// Why the peer may not control us, or nothing. The file's mode keeps others out already; this holds
// when somebody has changed it.
std::optional<std::string> why_not(int socket) {
  ucred peer{};
  socklen_t bytes = sizeof peer;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) < 0)
    return std::string("the kernel does not say who you are: ") + std::strerror(errno);
  if (peer.uid == 0 || peer.uid == ::geteuid()) return std::nullopt;
  return "uid " + std::to_string(peer.uid) + " may not control this daemon; root and uid " +
         std::to_string(::geteuid()) + " may";
}

}  // namespace

void ControlReply::send(const json& reply) const {
  if (const auto socket = socket_.lock()) (*socket)->reply(connection_, request_, reply);
}

Result<std::unique_ptr<ControlSocket>> ControlSocket::open(ControlOptions options, EventLoop& loop,
                                                           ControlHandlers handlers) {
  Result<ControlPath> listener = ControlPath::open(options.path, options.if_served);
  if (!listener) return std::unexpected(listener.error());
  std::unique_ptr<ControlSocket> control(
      new ControlSocket(std::move(options), loop, std::move(handlers), *std::move(listener)));
  ControlSocket* const self = control.get();
  if (Status added = loop.add(self->listener_.fd(), [self] { self->accept(); }); !added)
    return std::unexpected(added.error());
  loop.add_deadline([self] { return self->next_deadline_ns(); },
                    [self] { self->end_what_is_due(); });
  return control;
}

ControlSocket::ControlSocket(ControlOptions options, EventLoop& loop, ControlHandlers handlers,
                             ControlPath listener)
    : options_(std::move(options)),
      loop_(loop),
      handlers_(std::move(handlers)),
      listener_(std::move(listener)),
      self_(std::make_shared<ControlSocket*>(this)) {}

ControlSocket::~ControlSocket() {
  for (const auto& [id, connection] : connections_)
    loop_.remove(connection.socket.get());
  loop_.remove(listener_.fd());
}

void ControlSocket::accept() {
  OwnFd socket(::accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket.valid()) {
    if (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR) return;
    // Out of descriptors or memory: whoever waits is reported again and again, so we look away
    // for a moment.
    SPDLOG_ERROR("control: accept: {}", std::strerror(errno));
    loop_.remove(listener_.fd());
    accept_paused_until_ns_ = monotonic_ns() + kAcceptPause_ns;
    return;
  }
  if (const auto why = why_not(socket.get())) {
    SPDLOG_WARN("control: refused: {}", *why);
    dismiss(socket.get(), *why);
    return;
  }
  if (connections_.size() == kControlConnectionsMax) {
    dismiss(socket.get(), std::to_string(kControlConnectionsMax) +
                              " connections to the control socket are open; try again");
    return;
  }
  const std::uint64_t id = next_id_++;
  if (Status added = loop_.add(socket.get(), [this, id] { woken(id); }); !added) {
    SPDLOG_ERROR("control: {}", added.error().message);
    return;
  }
  connections_[id] = {.socket = std::move(socket),
                      .input = {},
                      .output = {},
                      .deadline_ns = monotonic_ns() + options_.patience_ns};
}

void ControlSocket::woken(std::uint64_t id) {
  const auto at = connections_.find(id);
  TCPMUX_CHECK(at != connections_.end(), "a connection is in the loop as long as it is open");
  Connection& connection = at->second;
  if (!connection.output.empty()) {
    write(connection);
  } else if (reads(connection)) {
    receive(connection);
  } else {
    connection.broken = true;  // we wait for nothing, so it is the end of both directions
  }
  handle_lines(id, connection);
  settle(at);
}

// Input is left with the kernel while a line of it waits for its reply and another one is here.
bool ControlSocket::reads(const Connection& connection) const {
  return !connection.input_ended && !connection.last &&
         connection.input.size() <= kControlRequestBytesMax;
}

void ControlSocket::receive(Connection& connection) {
  std::array<char, 16'384> buffer;
  const ssize_t bytes = ::recv(connection.socket.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (bytes > 0) connection.input.append(buffer.data(), static_cast<std::size_t>(bytes));
  connection.input_ended |= bytes == 0;
  connection.broken |= bytes < 0 && errno != EAGAIN && errno != EINTR;
}

// A handler may reply at once, so the connection's state is looked at again after each line.
void ControlSocket::handle_lines(std::uint64_t id, Connection& connection) {
  connection.handling = true;
  std::string line;
  while (!connection.waiting && !connection.broken && connection.output.empty() &&
         !connection.last && next_line(connection, line)) {
    ++connection.request;
    connection.waiting = true;
    connection.deadline_ns = kNever_ns;
    handle(line, ControlReply(self_, id, connection.request));
  }
  connection.handling = false;
}

// The last line may lack its line end.
bool ControlSocket::next_line(Connection& connection, std::string& line) {
  std::string& input = connection.input;
  const std::size_t end = input.find('\n');
  const bool whole = end != std::string::npos;
  if (std::min(end, input.size()) >= kControlRequestBytesMax) {
    connection.output =
        line_of(failure("a request has at most " + std::to_string(kControlRequestBytesMax) +
                        " bytes with its line end"));
    connection.last = true;
    write(connection);
    return false;
  }
  if (!whole && (!connection.input_ended || input.empty())) return false;
  line = input.substr(0, end);
  input.erase(0, whole ? end + 1 : end);
  return true;
}

void ControlSocket::handle(const std::string& line, const ControlReply& reply) {
  const json request = json::parse(line, nullptr, /*allow_exceptions=*/false);
  const auto command = request.is_object() ? request.find("command") : request.end();
  if (!request.is_object() || command == request.end() || !command->is_string()) {
    reply.send(
        failure(R"(a request is one JSON object on one line, such as {"command":"status"})"));
    return;
  }
  const std::string name = command->get<std::string>();
  const auto handler = handlers_.find(name);
  if (handler != handlers_.end()) return handler->second(request, reply);
  std::string known;
  for (const auto& [one, unused] : handlers_)
    known += (known.empty() ? "" : ", ") + one;
  reply.send(failure("there is no command '" + name.substr(0, 64) + "'; there are: " + known));
}

void ControlSocket::reply(std::uint64_t id, std::uint64_t request, const json& reply) {
  const auto at = connections_.find(id);
  if (at == connections_.end()) return;
  Connection& connection = at->second;
  if (!connection.waiting || connection.request != request) return;
  connection.waiting = false;
  connection.output = line_of(reply);
  connection.deadline_ns = monotonic_ns() + options_.patience_ns;
  write(connection);
  if (connection.handling) return;  // whoever handles its lines goes on
  handle_lines(id, connection);
  settle(at);
}

void ControlSocket::write(Connection& connection) {
  const ssize_t sent = ::send(connection.socket.get(), connection.output.data(),
                              connection.output.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent < 0) {
    connection.broken |= errno != EAGAIN && errno != EINTR;
    return;
  }
  connection.output.erase(0, static_cast<std::size_t>(sent));
  // The time for the next request begins.
  if (connection.output.empty()) connection.deadline_ns = monotonic_ns() + options_.patience_ns;
}

// Closes it where it is done, or says what it waits for.
void ControlSocket::settle(Connections::iterator at) {
  const Connection& connection = at->second;
  const bool idle = !connection.waiting && connection.output.empty();
  if (connection.broken || (idle && (connection.last || connection.input_ended))) {
    loop_.remove(connection.socket.get());
    connections_.erase(at);
    return;
  }
  loop_.wait_for(connection.socket.get(),
                 {.readable = connection.output.empty() && reads(connection),
                  .writable = !connection.output.empty()});
}

std::int64_t ControlSocket::next_deadline_ns() const {
  std::int64_t next_ns = accept_paused_until_ns_;
  for (const auto& [id, connection] : connections_)
    next_ns = std::min(next_ns, connection.deadline_ns);
  return next_ns;
}

void ControlSocket::end_what_is_due() {
  const std::int64_t now_ns = monotonic_ns();
  if (accept_paused_until_ns_ <= now_ns) {
    const Status resumed = loop_.add(listener_.fd(), [this] { accept(); });
    accept_paused_until_ns_ = resumed ? kNever_ns : now_ns + kAcceptPause_ns;
  }
  for (auto at = connections_.begin(); at != connections_.end();) {
    const auto one = at++;
    Connection& connection = one->second;
    if (connection.deadline_ns > now_ns) continue;
    if (connection.output.empty()) dismiss(connection.socket.get(), "no request came in time");
    connection.broken = true;
    settle(one);
  }
}

}  // namespace tcpmux
