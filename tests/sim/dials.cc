#include "tests/sim/dials.h"

#include <fmt/format.h>

namespace tcpmux::sim {
namespace {

constexpr bool kFault = true;
constexpr std::array<DialInfo, kDialCount> kInfos = {{
    {"connections", 200, 4000, false, "clients that come in this world"},
    {"shards", 1, 4, false, "shards"},
    {"slots", 4, 64, false, "connections_max of a shard"},
    {"busy_slots", 1, 8, false, "slots in which newcomers are told that the shard is busy"},
    {"taken_back_slots", 8, 24, false, "slots for what is taken back"},
    {"spare_descriptors", 0, 32, false, "descriptors beyond the budget"},
    {"mailbox", 2, 64, false, "messages that a mailbox holds"},
    {"services", 1, 4, false, "services that backends serve"},
    {"backends", 1, 6, false, "backends at a time"},
    {"window", 1, 16, false, "handoffs that may wait in a lane, at most"},
    {"batch", 1, 8, false, "sockets in a message, at most"},
    {"line_bytes_max", 32, 512, false, "the longest request line"},
    {"handshake_ms", 5, 1000, false, "handshake.deadline_ms"},
    {"room_wait_ms", 1, 100, false, "handoff.room_wait_ms"},
    {"stall_ms", 5, 200, false, "handoff.stall_ms"},
    {"handoff_ms", 10, 500, false, "handoff.deadline_ms"},
    {"drain_ms", 0, 300, false, "time for handshakes at the shutdown"},
    {"gap_us", 4, 120, false, "time between two clients, on average"},
    {"backend_us", 1, 60, false, "time that a backend needs for a message, on average"},
    {"lazy_engine", 0, 1, false, "1: operations start in reap(), as on io_uring; 0: at once"},
    {"lanes_per_shard", 2, 16, false, "lanes of one shard, at most"},
    {"backend_descriptors", 40, 100, false,
     "per cent of what all lanes and connections would take"},
    {"windows_sum", 16, 512, false, "sockets that may wait in all lanes together"},
    {"buffer_places", 4, 24, false, "places for which a lane's send buffer is large enough"},
    {"register_ms", 5, 500, false, "time to register after connecting"},
    {"open_registry", 0, 1, false, "1: names may be registered that nobody configured"},

    {"split", 0, 1000, kFault, "the stream is cut at any byte"},
    {"slow", 0, 300, kFault, "a client takes its time between two segments"},
    {"silent", 0, 60, kFault, "a client says no more, and stays"},
    {"fin", 0, 150, kFault, "a client's FIN comes behind any byte"},
    {"reset", 0, 150, kFault, "a client resets, behind any byte or later"},
    {"odd_line", 0, 500, kFault, "HELP, unknown, malformed, endless and forbidden names"},
    {"stays_on", 0, 60, kFault, "a refused client does not hang up"},
    {"talks_on", 0, 200, kFault, "a refused client goes on sending"},
    {"does_not_read", 0, 60, kFault, "a client reads nothing: its window is small and stays full"},

    {"accept_emfile", 0, 60, kFault, "accept: EMFILE"},
    {"accept_enfile", 0, 60, kFault, "accept: ENFILE"},
    {"accept_enobufs", 0, 60, kFault, "accept: ENOBUFS"},
    {"accept_aborted", 0, 60, kFault, "accept: ECONNABORTED"},
    {"full_queue", 0, 200, kFault, "accept ends, with a connection, as when the CQ is full"},
    {"late", 0, 400, kFault, "a completion comes late"},
    {"reorder", 0, 1000, kFault, "completions come out of order, and not all at once"},
    {"short_send", 0, 60, kFault, "a send takes a part"},
    {"send_waits", 0, 100, kFault, "a send would have to wait"},
    {"cancel_too_late", 0, 1000, kFault, "a cancelled operation was faster"},
    {"lane_full", 0, 100, kFault, "a lane's send: EAGAIN"},
    {"lane_no_memory", 0, 60, kFault, "a lane's send: ENOBUFS, ENOMEM"},
    {"too_many_refs", 0, 40, kFault, "a lane's send: ETOOMANYREFS, for a while"},

    {"stall", 0, 120, kFault, "a backend stops receiving, for a while"},
    {"die", 0, 60, kFault, "a backend dies, with whatever waits in its lanes"},
    {"rubbish", 0, 40, kFault, "a backend sends the registry rubbish, and goes on receiving"},
    {"shuts_lane", 0, 30, kFault, "a backend shuts its lane down: EPIPE"},
    {"drain", 0, 40, kFault, "a backend says that it wants no more"},
    {"raw", 0, 1000, kFault, "a backend has raw lanes"},
    {"one_lane", 0, 1000, kFault, "a backend has a lane on one shard only"},
    {"hold", 0, 300, kFault, "a backend keeps a client for a while"},
    {"wake_race", 0, 500, kFault, "a backend receives in the middle of a shard's call"},

    {"registers_twice", 0, 200, kFault, "a backend registers twice on its connection"},
    {"registers_again", 0, 100, kFault, "a backend registers once more, on another connection"},
    {"bad_register", 0, 200, kFault, "a connection begins with rubbish"},
    {"asks_too_much", 0, 200, kFault, "a backend asks for what it may not have"},
    {"never_registers", 0, 100, kFault, "a backend connects, and says nothing"},
    {"leaves_early", 0, 200, kFault, "a backend goes before it has an answer"},
    {"deaf", 0, 100, kFault, "a backend does not read what the registry says"},
    {"registry_full", 0, 100, kFault, "the registry's send: EAGAIN, ENOBUFS"},
    {"registry_accept", 0, 60, kFault, "the registry's accept: EMFILE, ECONNABORTED"},
    {"no_lane", 0, 100, kFault, "no socket pair, or no memory, for a lane"},
    {"no_watch", 0, 60, kFault, "the steward's epoll_ctl and inotify fail"},
    {"path_removed", 0, 30, kFault,
     "the registry's path is removed, and cannot always be had again"},

    {"slow_mail", 0, 400, kFault, "messages between threads take their time"},
    {"slow_steward", 0, 300, kFault, "the steward does not read its mailbox for a while"},
    {"shard_pause", 0, 30, kFault, "a shard's thread does not run for a while"},
    {"table_swap", 0, 60, kFault, "a new configuration comes"},
    {"upgrade", 0, 60, kFault, "a successor takes over, or does not"},
    {"early_shutdown", 0, 30, kFault, "the shutdown comes in the middle of the load"},
    {"clock_jump", 0, 30, kFault, "time jumps ahead"},
    {"real_clock_jump", 0, 60, kFault, "the clock of the day jumps, either way"},
}};

}  // namespace

const DialInfo& info(Dial dial) {
  return kInfos[static_cast<std::size_t>(dial)];
}

std::optional<Dial> find_dial(std::string_view name) {
  for (std::size_t i = 0; i < kDialCount; ++i)
    if (kInfos[i].name == name) return static_cast<Dial>(i);
  return std::nullopt;
}

Dials::Dials(Random& random) {
  const bool calm = random.below(8) == 0;
  for (std::size_t i = 0; i < kDialCount; ++i) {
    const DialInfo& one = kInfos[i];
    const bool on = random.below(2) == 0;
    const std::int64_t drawn = random.skewed(one.most - one.least);
    // Sizes are drawn flat; faults are mostly rare.
    const std::int64_t flat = random.between(one.least, one.most);
    values_[i] = !one.is_fault ? flat : on && !calm ? std::max<std::int64_t>(drawn, 1) : 0;
  }
}

std::string Dials::text() const {
  std::string all;
  for (std::size_t i = 0; i < kDialCount; ++i)
    if (!kInfos[i].is_fault || values_[i] != 0)
      all += fmt::format("{}{}={}", all.empty() ? "" : " ", kInfos[i].name, values_[i]);
  return all;
}

}  // namespace tcpmux::sim
