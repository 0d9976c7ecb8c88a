// The service table in use, and those before it that the kernel still reads from: '+' and the list
// of names are sent straight out of a table, so a table goes only when the last such reply has
// completed. The places are fixed; when all are pinned, a new table waits for one.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <utility>

#include "core/base/check.h"
#include "core/mux/service_table.h"

namespace tcpmux {

class TablePins {
 public:
  explicit TablePins(std::shared_ptr<const ServiceTable> table) {
    places_[0].table = std::move(table);
  }

  const ServiceTable& current() const { return *places_[current_].table; }
  const ServiceTable& pinned(std::uint8_t pin) const { return *places_[pin].table; }
  const std::shared_ptr<const ServiceTable>& shared() const { return places_[current_].table; }

  // The current table stays until unpin() with the number that this gives.
  std::uint8_t pin() {
    ++places_[current_].pins;
    return current_;
  }
  void unpin(std::uint8_t pin) {
    Place& place = places_[pin];
    TCPMUX_CHECK(place.pins > 0, "a table was unpinned twice");
    if (--place.pins == 0 && pin != current_) place.table.reset();
    if (waiting_ != nullptr) replace(std::move(waiting_));
  }

  // A table that still waits is overtaken: a later one has all that it has.
  void replace(std::shared_ptr<const ServiceTable> table) {
    for (std::uint8_t i = 0; i < places_.size(); ++i) {
      if (places_[i].table != nullptr) continue;
      places_[i].table = std::move(table);
      if (places_[current_].pins == 0) places_[current_].table.reset();
      current_ = i;
      return;
    }
    waiting_ = std::move(table);
  }

 private:
  struct Place {
    std::shared_ptr<const ServiceTable> table;  // nullptr exactly when the place is free
    std::uint32_t pins = 0;
  };
  std::array<Place, 8> places_;
  std::uint8_t current_ = 0;
  std::shared_ptr<const ServiceTable> waiting_;
};

}  // namespace tcpmux
