// One connection's conversation, as a pure state machine: what happened goes in, what to do next
// comes out. It knows no sockets; what it is given to read it reads once, and what it gives to send
// stays where it is until the connection has ended.
//
//   Connecting  connected              Reply; by kind Trickling, Listing, Waiting, Echo (direct)
//   Trickling   a byte is sent         the next one; after the last Reply
//   Reply       '+'                    completed; Echo (session, early)
//               '-'                    denied; End (unknown)
//   Echo        a message is back      the next one; after the last completed
//   Listing     names, then the end    completed
//   Waiting     the end                completed; where '-' came before it: End
//   End         the end                completed
//
// Each state has one way on; all else is a failure, with its name in outcome.h.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "tools/load/kinds.h"
#include "tools/load/outcome.h"
#include "tools/load/script.h"

namespace load {

struct Step {
  enum class What : std::uint8_t {
    kWait,  // for what is under way
    kSend,
    kReceive,
    kSendAndReceive,  // at the same time: of long messages both sides send and receive at once
    kFinish,
  };
  What what = What::kWait;
  std::span<const char> bytes{};
  Outcome outcome = Outcome::kCompleted;  // kFinish
  // What has just come in, for whoever takes times.
  bool reply = false;       // the whole reply line
  bool first_byte = false;  // the first byte behind it
  bool message = false;     // the last byte of a message's echo
};

class Dialogue {
 public:
  static constexpr std::size_t kReplyBytesMax = 512;

  // Begins anew. `number` makes the connection's bytes differ from others'. The step is what to do
  // together with connecting: kSendAndReceive, or kWait for on_connected().
  Step begin(const Script& script, Kind kind, std::uint64_t number);

  Step on_connected();
  Step on_sent();
  Step on_received(std::span<const char> bytes);  // at least one
  Step on_end();                                  // the FIN
  Step on_error(int error);                       // an errno

  // Ends a session between two messages, right after a step with `message`.
  static Step cut_short() { return finish(Outcome::kCompleted); }

  Kind kind() const { return kind_; }
  // Has said all that it ever says (half, silent).
  bool is_waiting() const { return state_ == State::kWaiting; }
  // The reply as far as it came, without CRLF once it is whole.
  std::string_view reply() const { return {reply_.data(), reply_size_}; }

 private:
  enum class State : std::uint8_t {
    kConnecting,
    kTrickling,
    kReply,
    kEcho,
    kListing,
    kWaiting,
    kEnd,
  };

  static Step finish(Outcome outcome) { return {.what = Step::What::kFinish, .outcome = outcome}; }
  Step open_with(State next, std::span<const char> bytes);
  Step say(std::span<const char> bytes);
  Step after_line();
  Step judge_reply();
  Step read_reply(std::span<const char> bytes);
  Step read_echo(std::span<const char> bytes);
  Step read_listing(std::span<const char> bytes);
  Step next_message();
  Step message_is_back();
  std::span<const char> name_nobody_has(std::uint64_t number);

  const Script* script_ = nullptr;
  Kind kind_ = Kind::kHandshake;
  State state_ = State::kConnecting;
  State after_connecting_ = State::kReply;
  std::uint64_t number_ = 0;
  bool opened_ = false;             // something was said together with connecting
  std::span<const char> expected_;  // echo: what is still to come back
  std::uint64_t messages_left_ = 0;
  std::uint32_t trickled_ = 0;
  bool sent_ = true;  // all of what was said last
  bool any_byte_of_session_ = false;
  std::uint32_t listed_ = 0;             // names
  std::uint32_t listed_name_bytes_ = 0;  // of the name that is coming in
  bool cr_came_ = false;                 // and its line end has begun
  std::size_t reply_size_ = 0;
  std::array<char, kReplyBytesMax> reply_;
  std::array<char, 32> own_name_;
};

}  // namespace load
