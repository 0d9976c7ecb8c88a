// The clients: scripts that say a line and what belongs to the session behind it, in segments that
// are cut anywhere, and that end wherever the dials want; and their half of TCP. A client is a
// place in a fixed array; a place is used again when the mux and the backends have let it go.
//
// The ledger's part of a client: what it was told, who holds its socket, who received it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/address.h"
#include "core/io/backend.h"
#include "core/mux/reply.h"
#include "core/mux/service_table.h"
#include "tests/sim/context.h"

namespace tcpmux::sim {

inline constexpr std::uint32_t kNoClient = UINT32_MAX;

// Who has operations on clients' sockets: an engine.
class Watcher {
 public:
  // What an operation on this client's socket waits for may have come.
  virtual void changed(std::uint32_t client) = 0;

 protected:
  ~Watcher() = default;
};

// What a client says first.
enum class Asks : std::uint8_t {
  kService,    // one that backends serve
  kLonely,     // configured, and nobody serves it
  kForbidden,  // not for its address
  kUnknown,
  kHelp,
  kMalformed,
  kTooLong,
  kEndless,  // no line end at all
};

enum class Told : std::uint8_t { kNothing, kPlus, kMinus, kNames };

// The one operation that a connection may have in flight.
struct PendingOperation {
  enum class Kind : std::uint8_t { kNone, kPeek, kDiscard, kReply, kDrain };
  Kind kind = Kind::kNone;    // kNone exactly when none is in flight
  bool has_result = false;    // a completion is on its way
  bool is_queued = false;     // stands in the engine's list of what to look at
  bool refused_once = false;  // a send has had to wait
  Tag tag{};
  std::span<char> into{};
  std::size_t to_take = 0;
  std::span<const char> bytes{};
};

struct Client {
  std::uint32_t generation = 0;
  std::uint64_t serial = 0;  // 0 exactly when the place is free

  // the script
  std::string stream;  // all that it sends: the line, and what is behind it
  std::uint32_t line_bytes = 0;
  Asks asks = Asks::kService;
  ServiceId service = kNoService;
  Endpoint source;
  Endpoint destination;
  std::uint32_t fin_behind = UINT32_MAX;    // bytes
  std::uint32_t reset_behind = UINT32_MAX;  // bytes
  bool silent = false;                      // says nothing from some byte on
  bool stays_on = false;                    // does not hang up when it was refused
  bool reads = true;

  // TCP, as the server's kernel sees it
  std::uint32_t arrived = 0;
  std::uint32_t consumed = 0;
  bool fin = false;
  bool reset = false;
  bool reset_was_told = false;
  std::string told;             // what was put into the send queue
  std::uint32_t was_read = 0;   // of that, by the client
  std::uint32_t send_room = 0;  // what the send queue and the client's window hold
  bool write_is_shut = false;
  bool reads_soon = false;

  // who has the socket
  std::uint32_t references = 0;  // descriptors of the mux, messages in lanes, backends, a backlog
  PendingOperation operation;
  Watcher* watcher = nullptr;

  // the ledger
  Told answer = Told::kNothing;
  bool answered_whole = false;
  bool answer_failed = false;  // '+' could not be sent whole
  std::uint32_t in_lanes = 0;
  std::uint32_t received = 0;     // by backends
  std::uint64_t received_by = 0;  // the last of them
  std::uint64_t unique_id = 0;    // and one, as a handoff has named it; 0: not yet
  bool was_raw = false;           // in a raw lane, which does not say who it is
  std::int64_t accepted_ns = 0;   // 0: not yet
  std::int64_t decided_ns = 0;    // when its state changed last
  std::uint32_t passes = 0;
  std::uint32_t operations = 0;   // on its socket
  std::uint32_t promised_in = 0;  // SimBackend's picture of places, when it was told '+'

  bool said_all() const { return arrived == stream.size(); }
  bool is_gone() const { return fin || reset; }
  std::uint32_t waiting() const { return arrived - consumed; }
  bool handed() const { return in_lanes + received > 0; }
};

class Clients {
 public:
  Clients(Context& context, std::uint32_t places);

  Client& operator[](std::uint32_t place) { return clients_[place]; }
  std::uint32_t place_of(const Client& client) const {
    return static_cast<std::uint32_t>(&client - clients_.data());
  }
  std::uint32_t size() const { return static_cast<std::uint32_t>(clients_.size()); }
  std::uint32_t in_use() const { return in_use_; }
  std::uint64_t count() const { return next_serial_ - 1; }
  // A new one, with a script of its own, or kNoClient when all places are taken. It has one
  // reference: its listener's backlog.
  std::uint32_t come(std::uint32_t services);
  bool is_current(std::uint32_t place, std::uint32_t generation) const {
    return clients_[place].serial != 0 && clients_[place].generation == generation;
  }

  // What its script does next.
  void send_next(std::uint32_t place);
  void read_all(std::uint32_t place);
  void unblock(std::uint32_t place);
  // Bytes were put into its send queue, or the server has shut its side.
  void was_told(std::uint32_t place);

  void hold(std::uint32_t place) { ++clients_[place].references; }
  // The last one that lets go closes the connection, and its place is free.
  void let_go(std::uint32_t place);
  // Calls `visit` for each that is in use.
  template <class Visit>
  void for_each(Visit visit) {
    for (std::uint32_t i = 0; i < clients_.size(); ++i)
      if (clients_[i].serial != 0) visit(i, clients_[i]);
  }

 private:
  void write_script(Client& client, std::uint32_t services);
  void write_odd_line(Client& client);
  void write_ends(Client& client);
  void end_with_fin(std::uint32_t place);
  void end_with_reset(std::uint32_t place);
  void changed(Client& client, std::uint32_t place) {
    if (client.watcher != nullptr) client.watcher->changed(place);
  }

  Context& context_;
  std::vector<Client> clients_;
  std::vector<std::uint32_t> free_;
  std::uint32_t in_use_ = 0;
  std::uint64_t next_serial_ = 1;
};

// The services of every world: "service-0" and so on, and these.
inline constexpr std::string_view kLonelyName = "lonely";
inline constexpr std::string_view kForbiddenName = "forbidden";
std::string service_name(std::uint32_t number);

}  // namespace tcpmux::sim
