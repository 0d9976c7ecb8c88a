// The state machine of a connection: every (state, event) pair against a table that was written
// from the protocol, not from the code; and what must hold of every way through it.
#include "core/mux/connection.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace tcpmux {
namespace {

// A cell is NEXT.action; "." is a pair that cannot happen. XX is closed.
constexpr std::string_view kTable = R"(
                      Pk    Tk    Rs    Rp    HO    Pa    Rf    Li    Dr    Cl    TA    XX
line incomplete       Tk.ta .     .     .     .     .     .     .     .     XX.cl Rf.rf .
line names a service  Rs.rs .     .     .     .     .     .     .     .     XX.cl Rf.rf .
line is HELP          Li.li .     .     .     .     .     .     .     .     XX.cl Rf.rf .
line refused          Rf.rf .     .     .     .     .     .     .     .     XX.cl Rf.rf .
taken                 .     Pk.pk .     .     .     .     .     .     .     XX.cl Rf.rf .
room                  .     .     Rp.ac .     .     HO.ho .     .     .     .     .     .
no room               .     .     Rs.wa .     .     Pa.wa .     .     .     .     .     .
no backend            .     .     Rf.rf .     .     Pa.wa .     .     .     .     .     .
elsewhere             .     .     XX.pa .     .     XX.pa .     .     .     .     .     .
replied               .     .     .     HO.ho .     .     Dr.hu Dr.hu .     XX.cl Rf.rf .
reply short           .     .     .     XX.un .     .     XX.cl Li.lm .     XX.cl Rf.rf .
handed off            .     .     .     .     XX.cl .     .     .     .     .     .     .
lane lost             .     .     .     .     Pa.rs .     .     .     .     .     .     .
drained               .     .     .     .     .     .     .     .     Dr.dr XX.cl Rf.rf .
peer gone             XX.cl XX.cl .     XX.un .     .     XX.cl XX.cl XX.cl XX.cl XX.cl .
cancelled             .     .     .     .     .     .     .     .     .     XX.cl Rf.rf .
deadline              Cl.ca Cl.ca Rf.rf .     .     XX.cl Cl.ca Cl.ca Cl.ca .     Cl.no .
shutdown              TA.ca TA.ca Rf.rf .     .     .     .     .     .     .     .     .
)";

const std::map<std::string_view, State> kStateCodes = {
    {"Pk", State::kPeeking},  {"Tk", State::kTaking},      {"Rs", State::kReserving},
    {"Rp", State::kReplying}, {"HO", State::kHandingOff},  {"Pa", State::kParked},
    {"Rf", State::kRefusing}, {"Li", State::kListing},     {"Dr", State::kDraining},
    {"Cl", State::kClosing},  {"TA", State::kTurningAway}, {"XX", State::kClosed},
};

const std::map<std::string_view, Action> kActionCodes = {
    {"no", Action::kNothing},   {"pk", Action::kPeek},     {"ta", Action::kTake},
    {"rs", Action::kReserve},   {"wa", Action::kWait},     {"ac", Action::kAccept},
    {"ho", Action::kHandOff},   {"pa", Action::kPass},     {"rf", Action::kRefuse},
    {"li", Action::kList},      {"lm", Action::kListMore}, {"hu", Action::kHangUp},
    {"dr", Action::kDrain},     {"ca", Action::kCancel},   {"cl", Action::kClose},
    {"un", Action::kUnreserve},
};

constexpr std::size_t kNameWidth = 22;

State state_at(int i) {
  return static_cast<State>(i);
}
Event event_at(int i) {
  return static_cast<Event>(i);
}

std::string trimmed(std::string text) {
  while (text.ends_with(' '))
    text.pop_back();
  return text;
}

Step step_of(State state, std::string_view cell) {
  if (cell == ".") return {state, Action::kBug};
  return {kStateCodes.at(cell.substr(0, 2)), kActionCodes.at(cell.substr(3))};
}

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;)
    words.push_back(word);
  return words;
}

// Calls `visit` with every pair that can happen.
template <class Visit>
void for_each_step(Visit visit) {
  for (int s = 0; s < kStateCount; ++s)
    for (int e = 0; e < kEventCount; ++e)
      if (const Step taken = step(state_at(s), event_at(e)); taken.action != Action::kBug)
        visit(state_at(s), event_at(e), taken);
}

std::string words(State state, Event event) {
  return std::string(to_string(state)) + ", " + to_string(event);
}

// Which operation an action starts.
enum class Started { kPeek, kDiscard, kReply, kDrain };
std::optional<Started> started_by(Action action) {
  switch (action) {
    case Action::kPeek:
      return Started::kPeek;
    case Action::kTake:
      return Started::kDiscard;
    case Action::kAccept:
    case Action::kRefuse:
    case Action::kList:
    case Action::kListMore:
      return Started::kReply;
    case Action::kHangUp:
    case Action::kDrain:
      return Started::kDrain;
    default:
      return std::nullopt;
  }
}

// The events with which an operation may complete, when nobody cancelled it.
std::set<Event> completions_of(Started operation) {
  switch (operation) {
    case Started::kPeek:
      return {Event::kLineIncomplete, Event::kLineService, Event::kLineHelp, Event::kLineRefused,
              Event::kPeerGone};
    case Started::kDiscard:
      return {Event::kTaken, Event::kPeerGone};
    case Started::kReply:
      return {Event::kReplied, Event::kReplyShort, Event::kPeerGone};
    case Started::kDrain:
      return {Event::kDrained, Event::kPeerGone};
  }
  return {};
}

bool is_any_completion(Event event) {
  if (event == Event::kCancelled) return true;
  for (const Started one : {Started::kPeek, Started::kDiscard, Started::kReply, Started::kDrain})
    if (completions_of(one).contains(event)) return true;
  return false;
}

bool awaits_a_completion(State state) {
  const std::set<State> idle = {State::kReserving, State::kHandingOff, State::kParked,
                                State::kClosed};
  return !idle.contains(state);
}

TEST(ConnectionStep, IsTheTable) {
  std::istringstream table{std::string(kTable)};
  std::string line;
  std::getline(table, line);  // nothing stands before the head
  std::getline(table, line);
  const std::vector<std::string> head = words_of(line);
  ASSERT_EQ(head.size(), static_cast<std::size_t>(kStateCount));
  int events = 0;
  for (; std::getline(table, line); ++events) {
    ASSERT_LT(events, kEventCount);
    const Event event = event_at(events);
    EXPECT_EQ(trimmed(line.substr(0, kNameWidth)), to_string(event)) << "the rows are in order";
    const std::vector<std::string> cells = words_of(line.substr(kNameWidth));
    ASSERT_EQ(cells.size(), head.size()) << line;
    for (std::size_t i = 0; i < cells.size(); ++i) {
      const State state = kStateCodes.at(head[i]);
      EXPECT_EQ(state, state_at(static_cast<int>(i))) << "the columns are in order";
      EXPECT_EQ(step(state, event), step_of(state, cells[i])) << words(state, event);
    }
  }
  EXPECT_EQ(events, kEventCount);
}

TEST(ConnectionStep, StatesAndEventsHaveNames) {
  std::set<std::string> names;
  for (int s = 0; s < kStateCount; ++s)
    names.insert(to_string(state_at(s)));
  for (int e = 0; e < kEventCount; ++e)
    names.insert(to_string(event_at(e)));
  EXPECT_EQ(names.size(), static_cast<std::size_t>(kStateCount + kEventCount));
  EXPECT_FALSE(names.contains("?"));
}

TEST(ConnectionStep, EveryStateComesToAnEnd) {
  std::set<State> ends = {State::kClosed};
  for (std::size_t before = 0; before != ends.size();) {
    before = ends.size();
    for_each_step([&](State state, Event, Step taken) {
      if (ends.contains(taken.next)) ends.insert(state);
    });
  }
  EXPECT_EQ(ends.size(), static_cast<std::size_t>(kStateCount));
}

TEST(ConnectionStep, EveryStateIsReachedFromTheFirst) {
  std::set<State> reached = {State::kPeeking};
  for (std::size_t before = 0; before != reached.size();) {
    before = reached.size();
    for_each_step([&](State state, Event, Step taken) {
      if (reached.contains(state)) reached.insert(taken.next);
    });
  }
  EXPECT_EQ(reached.size(), static_cast<std::size_t>(kStateCount));
}

TEST(ConnectionStep, PlusFollowsOnlyAReservedPlace) {
  for_each_step([](State state, Event event, Step taken) {
    const bool accepts = taken.action == Action::kAccept;
    EXPECT_EQ(accepts, state == State::kReserving && event == Event::kRoom) << words(state, event);
    EXPECT_EQ(accepts, taken.next == State::kReplying) << words(state, event);
  });
}

TEST(ConnectionStep, ASocketIsHandedOverOnlyBehindPlusAndWithAPlace) {
  for_each_step([](State state, Event event, Step taken) {
    const bool told_and_placed = (state == State::kReplying && event == Event::kReplied) ||
                                 (state == State::kParked && event == Event::kRoom);
    EXPECT_EQ(taken.action == Action::kHandOff, told_and_placed) << words(state, event);
  });
}

TEST(ConnectionStep, OnlyThreeActionsEndAConnection) {
  const std::set<Action> last = {Action::kClose, Action::kPass, Action::kUnreserve};
  for_each_step([&](State state, Event event, Step taken) {
    EXPECT_EQ(taken.next == State::kClosed, last.contains(taken.action)) << words(state, event);
  });
}

TEST(ConnectionStep, APlaceIsGivenBackExactlyWhenItWasNotUsed) {
  for_each_step([](State state, Event event, Step taken) {
    const bool leaves_a_place = state == State::kReplying && taken.action != Action::kHandOff;
    EXPECT_EQ(taken.action == Action::kUnreserve, leaves_a_place) << words(state, event);
  });
}

TEST(ConnectionStep, BehindACancelTheNextCompletionEndsOrRefuses) {
  for_each_step([](State state, Event event, Step taken) {
    if (taken.action != Action::kCancel) return;
    EXPECT_FALSE(is_any_completion(event)) << "nothing is left to cancel: " << words(state, event);
    for (int e = 0; e < kEventCount; ++e) {
      const Step then = step(taken.next, event_at(e));
      if (is_any_completion(event_at(e)))
        EXPECT_TRUE(then.action == Action::kClose || then.action == Action::kRefuse)
            << words(taken.next, event_at(e));
      else
        EXPECT_TRUE(then.action == Action::kBug || then.action == Action::kNothing)
            << words(taken.next, event_at(e));
    }
  });
}

// What is in flight is known by the state: an operation is started exactly where the next state
// awaits one and this step did not leave the one before in flight.
TEST(ConnectionStep, OneOperationAtATimeAndNoneLeftBehind) {
  for_each_step([](State state, Event event, Step taken) {
    const bool still_in_flight = awaits_a_completion(state) && !is_any_completion(event);
    const bool starts = started_by(taken.action).has_value();
    EXPECT_FALSE(still_in_flight && starts) << words(state, event);
    EXPECT_EQ(still_in_flight || starts, awaits_a_completion(taken.next)) << words(state, event);
  });
}

TEST(ConnectionStep, EveryWayAnOperationCanCompleteIsForeseen) {
  for_each_step([](State state, Event event, Step taken) {
    const std::optional<Started> operation = started_by(taken.action);
    if (!operation) return;
    for (const Event outcome : completions_of(*operation))
      EXPECT_NE(step(taken.next, outcome).action, Action::kBug)
          << words(state, event) << ", then " << to_string(outcome);
  });
}

TEST(ConnectionStep, AReservationsEveryAnswerIsForeseen) {
  for_each_step([](State state, Event event, Step taken) {
    if (taken.action != Action::kReserve && taken.action != Action::kWait) return;
    for (const Event answer :
         {Event::kRoom, Event::kNoRoom, Event::kNoBackend, Event::kElsewhere, Event::kDeadline})
      EXPECT_NE(step(taken.next, answer).action, Action::kBug)
          << words(state, event) << ", then " << to_string(answer);
  });
}

// After '+' there is no '-': who was told '+' is handed over, waits, or is closed.
TEST(ConnectionStep, NobodyIsRefusedBehindPlus) {
  std::set<State> after = {State::kReplying};
  for (std::size_t before = 0; before != after.size();) {
    before = after.size();
    for_each_step([&](State state, Event, Step taken) {
      if (after.contains(state)) after.insert(taken.next);
    });
  }
  EXPECT_EQ(after, (std::set<State>{State::kReplying, State::kHandingOff, State::kParked,
                                    State::kClosed}));
}

TEST(ConnectionStep, NothingFollowsTheEnd) {
  for (int e = 0; e < kEventCount; ++e)
    EXPECT_EQ(step(State::kClosed, event_at(e)), (Step{State::kClosed, Action::kBug}));
}

}  // namespace
}  // namespace tcpmux
