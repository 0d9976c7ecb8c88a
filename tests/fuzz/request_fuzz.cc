// Any bytes as a request line, in any pieces and with any bound: the parser says what a reference
// says that sees the line whole, and takes nothing behind it.
//
//   input   1 byte: the bound | 1 byte: n | n bytes: how much comes each time | the line
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "core/base/check.h"
#include "core/mux/request.h"
#include "core/mux/service_table.h"
#include "tests/unit/request_reference.h"

namespace {

using namespace tcpmux;

// Those around which the parser does something else: its buffer has 257 bytes.
constexpr std::array<std::size_t, 12> kBounds = {1,   2,   6,   16,  255, 256,
                                                 257, 258, 259, 512, 514, 4096};

class Input {
 public:
  explicit Input(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}
  std::size_t number() {
    if (bytes_.empty()) return 0;
    const std::uint8_t first = bytes_.front();
    bytes_ = bytes_.subspan(1);
    return first;
  }
  std::string_view rest() const {
    return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()};
  }

 private:
  std::span<const std::uint8_t> bytes_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input({data, size});
  const std::size_t line_bytes_max = kBounds[input.number() % kBounds.size()];
  std::vector<std::size_t> cuts(input.number());
  std::size_t arrived = 0;
  for (std::size_t& cut : cuts)
    cut = arrived += input.number() + 1;

  // On the heap, so that a sanitizer sees every byte beyond it.
  const auto line = std::make_unique<RequestLine>();
  line->clear();
  const char* wrong = nullptr;
  const LineOutcome outcome = judged_in_pieces(*line, input.rest(), cuts, line_bytes_max, wrong);
  TCPMUX_CHECK(wrong == nullptr, "the parser keeps its promises");
  TCPMUX_CHECK(outcome == judged_at_once(input.rest(), line_bytes_max),
               "and comes to what the reference comes to");
  // What is a name here is one for the table too, where only HELP is no service's.
  if (outcome.status == LineStatus::kName)
    TCPMUX_CHECK(why_not_a_service_name(outcome.name).has_value() == is_help(outcome.name),
                 "a name is a name everywhere");
  return 0;
}
