// The way of one connection, as a pure function: (state, event) -> (state, action). The shard turns
// what happens into events and carries the actions out; what may follow what is decided here alone.
//
//   Peeking <-> Taking                        the line comes in
//      | \-----> Refusing --> Draining --> closed
//      |  \----> Listing  ------^
//   Reserving (waits here for room before '+')
//      |
//   Replying --> HandingOff --> closed        '+' was sent; the socket is the backend's
//                    |   ^
//                  Parked                     after '+', without a lane: its backend was lost
//
// Closing and TurningAway: an operation was cancelled and its completion is awaited; then the
// connection is closed, or refused.
//
// In flight, one at most: the peek (Peeking), the discard (Taking), the reply (Replying, Refusing,
// Listing), the drain (Draining), or whichever was cancelled (Closing, TurningAway). None in
// Reserving and Parked. In HandingOff the socket waits for, or is in, a message of the lane.
#pragma once

#include <cstdint>

namespace tcpmux {

enum class State : std::uint8_t {
  kPeeking,
  kTaking,
  kReserving,
  kReplying,
  kHandingOff,
  kParked,
  kRefusing,
  kListing,
  kDraining,
  kClosing,
  kTurningAway,
  kClosed,
};
inline constexpr int kStateCount = 12;

enum class Event : std::uint8_t {
  kLineIncomplete,  // peeked: bytes of the line, not its end
  kLineService,     // peeked: a service that this client may use
  kLineHelp,        // peeked: HELP
  kLineRefused,     // peeked: a line to be refused
  kTaken,           // the discard is done
  kRoom,            // a place in a lane of this shard is reserved
  kNoRoom,          // there are backends, but no place
  kNoBackend,       // nobody serves the service
  kElsewhere,       // only another shard has a lane for it
  kReplied,         // the whole reply is sent
  kReplyShort,      // a part of it
  kHandedOff,       // the message with the socket is in the lane
  kLaneLost,        // the lane ended before that
  kDrained,         // more input came and was thrown away
  kPeerGone,        // the client's FIN where it is the end, a reset, any error of its socket
  kCancelled,       // a cancelled operation came back
  kDeadline,        // the deadline of the state has passed
  kShutdown,        // the mux ends, and this handshake has not come far enough
};
inline constexpr int kEventCount = 18;

enum class Action : std::uint8_t {
  kNothing,
  kPeek,       // start a peek
  kTake,       // discard what was peeked
  kReserve,    // look for a lane: answers with kRoom, kNoRoom, kNoBackend or kElsewhere
  kWait,       // stay in line for room
  kAccept,     // discard the line, send '+'
  kHandOff,    // put the socket into the reserved lane
  kPass,       // give the connection to the other shard
  kRefuse,     // discard the line, send '-' and the reason
  kList,       // discard the line, send the list of names
  kListMore,   // send the rest of it
  kHangUp,     // shutdown(SHUT_WR), then drain
  kDrain,      // drain more
  kCancel,     // cancel what is in flight
  kClose,      // close our copy; the slot is free
  kUnreserve,  // give the reserved place back, then close
  kBug,        // the pair cannot happen
};

struct Step {
  State next;
  Action action;
  friend bool operator==(const Step&, const Step&) = default;
};

Step step(State state, Event event);

const char* to_string(State state);
const char* to_string(Event event);

}  // namespace tcpmux
