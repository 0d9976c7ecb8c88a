#include "core/mux/connection.h"

namespace tcpmux {
namespace {

constexpr Step bug(State state) {
  return {state, Action::kBug};
}
constexpr Step close() {
  return {State::kClosed, Action::kClose};
}

Step peeking(Event event) {
  switch (event) {
    case Event::kLineIncomplete:
      return {State::kTaking, Action::kTake};
    case Event::kLineService:
      return {State::kReserving, Action::kReserve};
    case Event::kLineHelp:
      return {State::kListing, Action::kList};
    case Event::kLineRefused:
      return {State::kRefusing, Action::kRefuse};
    case Event::kPeerGone:
      return close();
    case Event::kDeadline:
      return {State::kClosing, Action::kCancel};
    case Event::kShutdown:
      return {State::kTurningAway, Action::kCancel};
    default:
      return bug(State::kPeeking);
  }
}

Step taking(Event event) {
  switch (event) {
    case Event::kTaken:
      return {State::kPeeking, Action::kPeek};
    case Event::kPeerGone:
      return close();
    case Event::kDeadline:
      return {State::kClosing, Action::kCancel};
    case Event::kShutdown:
      return {State::kTurningAway, Action::kCancel};
    default:
      return bug(State::kTaking);
  }
}

Step reserving(Event event) {
  switch (event) {
    case Event::kRoom:
      return {State::kReplying, Action::kAccept};
    case Event::kNoRoom:
      return {State::kReserving, Action::kWait};
    case Event::kElsewhere:
      return {State::kClosed, Action::kPass};
    case Event::kNoBackend:
    case Event::kDeadline:
    case Event::kShutdown:
      return {State::kRefusing, Action::kRefuse};
    default:
      return bug(State::kReserving);
  }
}

// A fresh socket's send queue has room for one line: neither short nor late.
Step replying(Event event) {
  switch (event) {
    case Event::kReplied:
      return {State::kHandingOff, Action::kHandOff};
    case Event::kReplyShort:
    case Event::kPeerGone:
      return {State::kClosed, Action::kUnreserve};
    default:
      return bug(State::kReplying);
  }
}

Step handing_off(Event event) {
  switch (event) {
    case Event::kHandedOff:
      return close();
    case Event::kLaneLost:
      return {State::kParked, Action::kReserve};
    default:
      return bug(State::kHandingOff);
  }
}

Step parked(Event event) {
  switch (event) {
    case Event::kRoom:
      return {State::kHandingOff, Action::kHandOff};
    case Event::kNoRoom:
    case Event::kNoBackend:
      return {State::kParked, Action::kWait};
    case Event::kElsewhere:
      return {State::kClosed, Action::kPass};
    case Event::kDeadline:
      return close();
    default:
      return bug(State::kParked);
  }
}

Step refusing(Event event) {
  switch (event) {
    case Event::kReplied:
      return {State::kDraining, Action::kHangUp};
    case Event::kReplyShort:
    case Event::kPeerGone:
      return close();
    case Event::kDeadline:
      return {State::kClosing, Action::kCancel};
    default:
      return bug(State::kRefusing);
  }
}

Step listing(Event event) {
  switch (event) {
    case Event::kReplied:
      return {State::kDraining, Action::kHangUp};
    case Event::kReplyShort:
      return {State::kListing, Action::kListMore};
    case Event::kPeerGone:
      return close();
    case Event::kDeadline:
      return {State::kClosing, Action::kCancel};
    default:
      return bug(State::kListing);
  }
}

Step draining(Event event) {
  switch (event) {
    case Event::kDrained:
      return {State::kDraining, Action::kDrain};
    case Event::kPeerGone:
      return close();
    case Event::kDeadline:
      return {State::kClosing, Action::kCancel};
    default:
      return bug(State::kDraining);
  }
}

// The cancelled operation may have been faster: then its own result comes instead.
constexpr bool is_completion(Event event) {
  switch (event) {
    case Event::kLineIncomplete:
    case Event::kLineService:
    case Event::kLineHelp:
    case Event::kLineRefused:
    case Event::kTaken:
    case Event::kReplied:
    case Event::kReplyShort:
    case Event::kDrained:
    case Event::kPeerGone:
    case Event::kCancelled:
      return true;
    default:
      return false;
  }
}

Step closing(Event event) {
  return is_completion(event) ? close() : bug(State::kClosing);
}

Step turning_away(Event event) {
  if (event == Event::kPeerGone) return close();
  if (event == Event::kDeadline) return {State::kClosing, Action::kNothing};
  return is_completion(event) ? Step{State::kRefusing, Action::kRefuse} : bug(State::kTurningAway);
}

}  // namespace

Step step(State state, Event event) {
  switch (state) {
    case State::kPeeking:
      return peeking(event);
    case State::kTaking:
      return taking(event);
    case State::kReserving:
      return reserving(event);
    case State::kReplying:
      return replying(event);
    case State::kHandingOff:
      return handing_off(event);
    case State::kParked:
      return parked(event);
    case State::kRefusing:
      return refusing(event);
    case State::kListing:
      return listing(event);
    case State::kDraining:
      return draining(event);
    case State::kClosing:
      return closing(event);
    case State::kTurningAway:
      return turning_away(event);
    case State::kClosed:
      break;
  }
  return bug(state);
}

const char* to_string(State state) {
  switch (state) {
    case State::kPeeking:
      return "peeking";
    case State::kTaking:
      return "taking";
    case State::kReserving:
      return "reserving";
    case State::kReplying:
      return "replying";
    case State::kHandingOff:
      return "handing off";
    case State::kParked:
      return "parked";
    case State::kRefusing:
      return "refusing";
    case State::kListing:
      return "listing";
    case State::kDraining:
      return "draining";
    case State::kClosing:
      return "closing";
    case State::kTurningAway:
      return "turning away";
    case State::kClosed:
      return "closed";
  }
  return "?";
}

const char* to_string(Event event) {
  switch (event) {
    case Event::kLineIncomplete:
      return "line incomplete";
    case Event::kLineService:
      return "line names a service";
    case Event::kLineHelp:
      return "line is HELP";
    case Event::kLineRefused:
      return "line refused";
    case Event::kTaken:
      return "taken";
    case Event::kRoom:
      return "room";
    case Event::kNoRoom:
      return "no room";
    case Event::kNoBackend:
      return "no backend";
    case Event::kElsewhere:
      return "elsewhere";
    case Event::kReplied:
      return "replied";
    case Event::kReplyShort:
      return "reply short";
    case Event::kHandedOff:
      return "handed off";
    case Event::kLaneLost:
      return "lane lost";
    case Event::kDrained:
      return "drained";
    case Event::kPeerGone:
      return "peer gone";
    case Event::kCancelled:
      return "cancelled";
    case Event::kDeadline:
      return "deadline";
    case Event::kShutdown:
      return "shutdown";
  }
  return "?";
}

}  // namespace tcpmux
