// What the connections of a run say and want to hear. Made once, and only read afterwards, by all
// threads; what it hands out lives as long as it does.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace load {

struct ScriptOptions {
  std::string service = "echo";
  std::string expect{};  // the whole reply line without CRLF; empty: any that begins with '+'
  std::uint64_t messages = 10;
  std::uint32_t message_bytes = 64;
  bool direct = false;  // no line and no reply: the session begins at once
  bool hold = false;    // half and silent: the server's end is a failure
};

class Script {
 public:
  explicit Script(ScriptOptions options);

  const ScriptOptions& options() const { return options_; }
  std::span<const char> line() const { return line_; }
  std::span<const char> half_line() const;
  // Bytes that differ from message to message, so that those of another one are noticed.
  std::span<const char> message(std::uint64_t number) const;
  // The line, and the message `number` right behind it.
  std::span<const char> early(std::uint64_t number) const;
  std::span<const char> early_payload(std::uint64_t number) const;

 private:
  static constexpr std::size_t kVariants = 8;

  ScriptOptions options_;
  std::string line_;
  std::vector<char> pattern_;
  std::vector<char> early_;  // kVariants times line and payload; empty when direct
};

}  // namespace load
