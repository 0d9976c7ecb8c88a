// The control socket: on it root and the daemon's own user ask for its state and tell it what to
// do. One JSON object a line each way: {"command": "status"} is answered by {"ok": true, ...} or
// {"ok": false, "error": "..."}. On the steward's thread.
//
//   reading --a line--> waiting (its handler has it) --reply--> writing --written--> reading
//      '--silent for too long, or its end--> closed     '--it leaves--> closed; the reply is
//      dropped
//
// Lines that come while one waits are answered in their order. Bounded: connections, the bytes of
// a request, and the time that a client may take to send one or to read a reply. A reply may take
// as long as its handler likes.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "core/base/clock.h"
#include "core/base/fd.h"
#include "core/base/result.h"
#include "core/server/control_path.h"
#include "core/server/event_loop.h"

namespace tcpmux {

inline constexpr std::uint32_t kControlConnectionsMax = 16;
inline constexpr std::size_t kControlRequestBytesMax = 65'536;  // with its line end

class ControlSocket;

// Where the reply to one request goes. Copies are the same reply.
class ControlReply {
 public:
  // Now, or at any time later. The first one counts; where the client or the socket is gone by
  // then, it is dropped.
  void send(const nlohmann::json& reply) const;

 private:
  friend class ControlSocket;
  ControlReply(std::weak_ptr<ControlSocket*> socket, std::uint64_t connection,
               std::uint64_t request)
      : socket_(std::move(socket)), connection_(connection), request_(request) {}

  std::weak_ptr<ControlSocket*> socket_;
  std::uint64_t connection_;
  std::uint64_t request_;
};

// Each request is to be replied to once. A handler does not destroy the socket.
using ControlHandler =
    std::function<void(const nlohmann::json& request, const ControlReply& reply)>;
using ControlHandlers = std::map<std::string, ControlHandler, std::less<>>;

struct ControlOptions {
  std::string path;
  IfServed if_served = IfServed::kRefuse;
  std::int64_t patience_ns = 10 * kNanosPerSecond;  // for a request to come, a reply to be read
};

class ControlSocket {
 public:
  // `handlers` by the name of the command. The loop outlives the socket, and is not run after it.
  static Result<std::unique_ptr<ControlSocket>> open(ControlOptions options, EventLoop& loop,
                                                     ControlHandlers handlers);
  ~ControlSocket();

  const std::string& path() const { return listener_.path(); }

 private:
  friend class ControlReply;
  struct Connection {
    OwnFd socket;
    std::string input;          // what came and is not yet handled
    std::string output;         // what is left of the reply
    std::uint64_t request = 0;  // the last one that was handled
    bool waiting = false;       // for the reply to it
    bool handling = false;      // its lines are being gone through
    bool input_ended = false;   // the client sends no more
    bool last = false;          // closed once `output` is written
    bool broken = false;        // nothing can be said to the client any more
    std::int64_t deadline_ns = kNever_ns;
  };
  using Connections = std::map<std::uint64_t, Connection>;

  ControlSocket(ControlOptions options, EventLoop& loop, ControlHandlers handlers,
                ControlPath listener);
  void accept();
  void woken(std::uint64_t id);
  void receive(Connection& connection);
  void handle_lines(std::uint64_t id, Connection& connection);
  bool next_line(Connection& connection, std::string& line);
  void handle(const std::string& line, const ControlReply& reply);
  void reply(std::uint64_t id, std::uint64_t request, const nlohmann::json& reply);
  void write(Connection& connection);
  bool reads(const Connection& connection) const;
  void settle(Connections::iterator at);
  std::int64_t next_deadline_ns() const;
  void end_what_is_due();

  ControlOptions options_;
  EventLoop& loop_;
  ControlHandlers handlers_;
  ControlPath listener_;
  std::shared_ptr<ControlSocket*> self_;  // replies live no longer than we
  Connections connections_;
  std::uint64_t next_id_ = 1;
  std::int64_t accept_paused_until_ns_ = kNever_ns;  // kNever_ns exactly when we listen
};

}  // namespace tcpmux
