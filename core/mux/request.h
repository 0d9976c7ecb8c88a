// The request line: what a client says first (RFC 1078), parsed where it lies.
//
// The bytes are peeked into the connection's line buffer, behind what was taken before. Either the
// line's end is among them: then exactly the bytes up to it are taken out of the socket, and what
// stands behind belongs to the backend. Or it is not: then every byte seen is line, and is taken,
// so that the next peek sees new ones. Nothing is copied or allocated.
//
// RFC 1078 leaves open: lengths (here a name has at most 255 bytes, a line `line_bytes_max`), the
// character set (0x21 to 0x7E) and the bare LF (accepted).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace tcpmux {

enum class LineStatus : std::uint8_t {
  kIncomplete,  // no line end yet: take all that was peeked, and peek again
  kName,        // name() is a well-formed name
  kInvalid,     // empty, or a byte that no name has
  kTooLong,     // longer than a name or a line may be; its end may not have been seen
};

class RequestLine {
 public:
  void clear() {
    kept_ = name_bytes_ = 0;
    dropped_ = 0;
  }

  // Bytes of the line that were seen so far, without its end.
  std::size_t length() const { return kept_ + dropped_; }

  // Where to peek to: never empty, and never more than the line may still have.
  std::span<char> room(std::size_t line_bytes_max);

  // `peeked` bytes now stand at the begin of room(). Says what the line is, and in `take` how many
  // of them are line.
  LineStatus scan(std::size_t peeked, std::size_t line_bytes_max, std::size_t& take);

  // After kName, until clear().
  std::string_view name() const { return {bytes_.data(), name_bytes_}; }

 private:
  // A name and its CRLF. A longer line can only be refused, so of it we keep nothing and count.
  static constexpr std::size_t kBytes = 257;

  LineStatus judge(std::size_t length);

  std::uint16_t kept_ = 0;        // bytes of the line in bytes_, taken from the socket
  std::uint16_t name_bytes_ = 0;  // of a complete name
  std::uint32_t dropped_ = 0;     // bytes of the line that were taken and not kept
  std::array<char, kBytes> bytes_;
};

// True exactly when `name` is the reserved HELP, in any case.
bool is_help(std::string_view name);

}  // namespace tcpmux
