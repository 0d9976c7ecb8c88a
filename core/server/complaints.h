// Everything that is wrong with a configuration file, each with its place, so that one run shows
// all of it.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tcpmux {

struct Place {
  std::uint32_t line = 0;  // from 1
  std::uint32_t column = 0;

  friend auto operator<=>(const Place&, const Place&) = default;
};

// `text` with its control characters written as \xNN: what a file holds must neither break a
// message into lines nor command the reader's terminal.
std::string printable(std::string_view text);
// 'text', printable and shortened.
std::string quoted(std::string_view text);

class Complaints {
 public:
  // `source` is the file's name.
  explicit Complaints(std::string source) : source_(std::move(source)) {}

  void add(Place place, std::string_view what);
  bool empty() const { return complaints_.empty(); }
  // One line for each, in the order of the file: "FILE:LINE:COLUMN: what".
  std::string joined() const;

 private:
  struct Complaint {
    Place place;
    std::string what;
  };
  std::string source_;
  std::vector<Complaint> complaints_;
};

}  // namespace tcpmux
