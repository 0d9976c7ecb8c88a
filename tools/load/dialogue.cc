#include "tools/load/dialogue.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/base/check.h"

namespace load {
namespace {

constexpr std::string_view kHelpLine = "HELP\r\n";
constexpr std::uint32_t kNameBytesMax = 255;

// Steele et al., SplitMix64: neighbours have nothing in common.
std::uint64_t scatter(std::uint64_t number) {
  number += 0x9E3779B97F4A7C15;
  number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9;
  number = (number ^ (number >> 27)) * 0x94D049BB133111EB;
  return number ^ (number >> 31);
}

bool is_of_a_name(char byte) {
  return byte >= 0x21 && byte <= 0x7E;
}

}  // namespace

Step Dialogue::begin(const Script& script, Kind kind, std::uint64_t number) {
  script_ = &script;
  kind_ = kind;
  state_ = State::kConnecting;
  number_ = number;
  messages_left_ = script.options().messages;
  expected_ = {};
  trickled_ = 0;
  sent_ = true;
  any_byte_of_session_ = false;
  listed_ = 0;
  listed_name_bytes_ = 0;
  cr_came_ = false;
  reply_size_ = 0;
  switch (kind) {
    case Kind::kHandshake:
      return script.options().direct ? open_with(State::kEcho, {})
                                     : open_with(State::kReply, script.line());
    case Kind::kSession:
      if (!script.options().direct) return open_with(State::kReply, script.line());
      expected_ = messages_left_ == 0 ? std::span<const char>{} : script.message(number_);
      return open_with(State::kEcho, expected_);
    case Kind::kEarly:
      messages_left_ = 1;
      expected_ = script.early_payload(number);
      return open_with(script.options().direct ? State::kEcho : State::kReply,
                       script.early(number));
    case Kind::kUnknown:
      return open_with(State::kReply, name_nobody_has(number));
    case Kind::kHelp:
      return open_with(State::kListing, kHelpLine);
    case Kind::kTrickle:
      return open_with(State::kTrickling, {});
    case Kind::kHalf:
      return open_with(State::kWaiting, script.half_line());
    case Kind::kSilent:
      return open_with(State::kWaiting, {});
  }
  TCPMUX_UNREACHABLE("a connection has a kind");
}

Step Dialogue::open_with(State next, std::span<const char> bytes) {
  after_connecting_ = next;
  opened_ = !bytes.empty();
  return opened_ ? say(bytes) : Step{};
}

Step Dialogue::say(std::span<const char> bytes) {
  sent_ = false;
  return {.what = Step::What::kSendAndReceive, .bytes = bytes};
}

Step Dialogue::on_connected() {
  state_ = after_connecting_;
  if (opened_) return {};
  if (state_ == State::kTrickling) return on_sent();
  if (state_ == State::kWaiting) return {.what = Step::What::kReceive};
  return finish(Outcome::kCompleted);  // direct, with nothing to say
}

Step Dialogue::on_sent() {
  if (state_ == State::kTrickling) {
    const std::span<const char> byte = script_->line().subspan(trickled_++, 1);
    if (trickled_ < script_->line().size()) return {.what = Step::What::kSend, .bytes = byte};
    state_ = State::kReply;
    return say(byte);
  }
  sent_ = true;
  return state_ == State::kEcho && expected_.empty() ? message_is_back() : Step{};
}

Step Dialogue::on_received(std::span<const char> bytes) {
  switch (state_) {
    case State::kReply:
    case State::kWaiting:
      return read_reply(bytes);
    case State::kEcho:
      return read_echo(bytes);
    case State::kListing:
      return read_listing(bytes);
    case State::kConnecting:
    case State::kTrickling:
    case State::kEnd:
      return finish(Outcome::kWrongReply);
  }
  TCPMUX_UNREACHABLE("a dialogue has a state");
}

// --- the reply ---

Step Dialogue::read_reply(std::span<const char> bytes) {
  const auto line_end = std::ranges::find(bytes, '\n');
  const auto size = static_cast<std::size_t>(line_end - bytes.begin());
  const std::size_t kept = std::min(size, kReplyBytesMax - reply_size_);
  std::memcpy(reply_.data() + reply_size_, bytes.data(), kept);
  reply_size_ += kept;
  if (kept < size) return finish(Outcome::kWrongReply);
  if (line_end == bytes.end()) return {.what = Step::What::kReceive};
  if (reply_size_ == 0 || reply_[reply_size_ - 1] != '\r') return finish(Outcome::kWrongReply);
  --reply_size_;
  Step step = judge_reply();
  const std::span<const char> rest = bytes.subspan(size + 1);
  // Behind the line of a handshake may be what the backend says by itself.
  if (!rest.empty() && step.what != Step::What::kFinish)
    step = step.what == Step::What::kReceive && state_ == State::kEcho
               ? read_echo(rest)
               : finish(Outcome::kWrongReply);
  step.reply = true;
  return step;
}

Step Dialogue::judge_reply() {
  const std::string& expect = script_->options().expect;
  const bool is_denial = reply().starts_with('-');
  if (kind_ == Kind::kUnknown || state_ == State::kWaiting) {
    if (!is_denial) return finish(Outcome::kWrongReply);
    if (state_ == State::kWaiting && script_->options().hold) return finish(Outcome::kDenied);
    state_ = State::kEnd;
    return {.what = Step::What::kReceive};
  }
  if (!expect.empty() && reply() == expect)
    return is_denial ? finish(Outcome::kCompleted) : after_line();
  if (is_denial) return finish(Outcome::kDenied);
  if (!expect.empty() || !reply().starts_with('+') || kind_ == Kind::kHelp)
    return finish(Outcome::kWrongReply);
  return after_line();
}

// '+' was said.
Step Dialogue::after_line() {
  if (kind_ == Kind::kSession && messages_left_ > 0) return next_message();
  if (kind_ != Kind::kEarly) return finish(Outcome::kCompleted);
  state_ = State::kEcho;
  return {.what = Step::What::kReceive};
}

// --- the session ---

Step Dialogue::next_message() {
  state_ = State::kEcho;
  expected_ = script_->message(number_ + messages_left_);
  return say(expected_);
}

Step Dialogue::read_echo(std::span<const char> bytes) {
  if (bytes.size() > expected_.size() ||
      std::memcmp(bytes.data(), expected_.data(), bytes.size()) != 0)
    return finish(Outcome::kWrongReply);
  expected_ = expected_.subspan(bytes.size());
  const bool first_byte = !any_byte_of_session_;
  any_byte_of_session_ = true;
  Step step{.what = Step::What::kReceive};
  // All is back, so all was sent; where that is still to be told, on_sent() goes on.
  if (expected_.empty()) step = sent_ ? message_is_back() : Step{};
  step.first_byte = first_byte;
  return step;
}

Step Dialogue::message_is_back() {
  --messages_left_;
  Step step = messages_left_ == 0 ? finish(Outcome::kCompleted) : next_message();
  step.message = true;
  return step;
}

// --- HELP ---

// A first name that begins with '-' would be taken for a refusal: nobody can tell them apart.
Step Dialogue::read_listing(std::span<const char> bytes) {
  if (listed_ == 0 && listed_name_bytes_ == 0 && (bytes[0] == '-' || bytes[0] == '+')) {
    state_ = State::kReply;
    return read_reply(bytes);
  }
  Step step{.what = Step::What::kReceive};
  for (const char byte : bytes) {
    if (byte == '\n') {
      if (listed_name_bytes_ == 0) return finish(Outcome::kWrongReply);
      step.reply = step.reply || listed_ == 0;
      ++listed_;
      listed_name_bytes_ = 0;
      cr_came_ = false;
    } else if (cr_came_) {
      return finish(Outcome::kWrongReply);
    } else if (byte == '\r') {
      cr_came_ = true;
    } else if (!is_of_a_name(byte) || ++listed_name_bytes_ > kNameBytesMax) {
      return finish(Outcome::kWrongReply);
    }
  }
  return step;
}

// --- the end ---

Step Dialogue::on_end() {
  switch (state_) {
    case State::kConnecting:
    case State::kTrickling:
    case State::kReply:
      return finish(Outcome::kClosedEarly);
    case State::kEcho:
      return finish(script_->options().direct ? Outcome::kClosedEarly : Outcome::kClosedAfterPlus);
    case State::kListing:
      return finish(listed_ > 0 && listed_name_bytes_ == 0 && !cr_came_ ? Outcome::kCompleted
                                                                        : Outcome::kClosedEarly);
    case State::kWaiting:
      return finish(script_->options().hold || reply_size_ > 0 ? Outcome::kClosedEarly
                                                               : Outcome::kCompleted);
    case State::kEnd:
      return finish(Outcome::kCompleted);
  }
  TCPMUX_UNREACHABLE("a dialogue has a state");
}

Step Dialogue::on_error(int error) {
  if (error == ECONNREFUSED) return finish(Outcome::kRefused);
  if (error == ECONNRESET || error == EPIPE) return finish(Outcome::kReset);
  if (error == ETIMEDOUT) return finish(Outcome::kTimedOut);
  return finish(Outcome::kLocal);
}

std::span<const char> Dialogue::name_nobody_has(std::uint64_t number) {
  constexpr std::string_view kPrefix = "nobody-";
  constexpr std::string_view kDigits = "0123456789abcdef";
  char* to = std::ranges::copy(kPrefix, own_name_.data()).out;
  std::uint64_t bits = scatter(number);
  for (int i = 0; i < 16; ++i, bits >>= 4)
    *to++ = kDigits[bits & 0xF];
  *to++ = '\r';
  *to++ = '\n';
  return {own_name_.data(), to};
}

}  // namespace load
