// Tables that come while replies are sent out of those before them: each stays as long as it is
// needed, and no longer.
#include "core/server/table_pins.h"

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace tcpmux {
namespace {

constexpr std::size_t kPlaces = 8;

std::shared_ptr<const ServiceTable> make_table(const std::string& name) {
  return std::make_shared<const ServiceTable>(*ServiceTable::build({{.name = name}}));
}

// A table, and whether the pins still hold it.
struct Watched {
  explicit Watched(const std::string& name) : table(make_table(name)), watch(table) {}
  std::shared_ptr<const ServiceTable> give() { return std::move(table); }
  bool alive() const { return !watch.expired(); }

  std::shared_ptr<const ServiceTable> table;
  std::weak_ptr<const ServiceTable> watch;
};

std::string name_in(const ServiceTable& table) {
  return table[0].name;
}

TEST(TablePins, TheNewestIsCurrentAndTheOldGoesAtOnce) {
  Watched first("first");
  Watched second("second");
  TablePins pins(first.give());
  EXPECT_EQ(name_in(pins.current()), "first");
  pins.replace(second.give());
  EXPECT_EQ(name_in(pins.current()), "second");
  EXPECT_FALSE(first.alive());
  EXPECT_TRUE(second.alive());
}

TEST(TablePins, APinnedTableStaysUntilItsLastPinIsGone) {
  Watched first("first");
  TablePins pins(first.give());
  const std::uint8_t one = pins.pin();
  const std::uint8_t two = pins.pin();
  pins.replace(make_table("second"));
  EXPECT_EQ(name_in(pins.pinned(one)), "first");
  pins.unpin(one);
  EXPECT_TRUE(first.alive());
  EXPECT_EQ(name_in(pins.pinned(two)), "first");
  pins.unpin(two);
  EXPECT_FALSE(first.alive());
  EXPECT_EQ(name_in(pins.current()), "second");
}

TEST(TablePins, TheCurrentOneStaysWithoutPins) {
  Watched first("first");
  TablePins pins(first.give());
  pins.unpin(pins.pin());
  EXPECT_TRUE(first.alive());
  EXPECT_EQ(name_in(pins.current()), "first");
}

TEST(TablePins, WhenAllPlacesArePinnedTheNewestWaits) {
  TablePins pins(make_table("0"));
  std::array<std::uint8_t, kPlaces> held;
  for (std::size_t i = 0; i < kPlaces; ++i) {
    if (i > 0) pins.replace(make_table(std::to_string(i)));
    held[i] = pins.pin();
  }
  Watched overtaken("overtaken");
  pins.replace(overtaken.give());
  EXPECT_TRUE(overtaken.alive());
  EXPECT_EQ(name_in(pins.current()), "7") << "no place for it yet";
  pins.replace(make_table("newest"));
  EXPECT_FALSE(overtaken.alive()) << "only the newest waits";
  for (std::size_t i = 0; i < kPlaces; ++i)
    EXPECT_EQ(name_in(pins.pinned(held[i])), std::to_string(i));

  pins.unpin(held[3]);
  EXPECT_EQ(name_in(pins.current()), "newest");
  for (const std::size_t i : {0U, 1U, 2U, 4U, 5U, 6U, 7U})
    EXPECT_EQ(name_in(pins.pinned(held[i])), std::to_string(i));
}

// The table that waits takes a place only when one is free; a pin fewer is not yet that.
TEST(TablePins, WaitsOnWhileTheTableThatWasUnpinnedHasPinsLeft) {
  TablePins pins(make_table("0"));
  std::array<std::uint8_t, kPlaces> held;
  for (std::size_t i = 0; i < kPlaces; ++i) {
    if (i > 0) pins.replace(make_table(std::to_string(i)));
    held[i] = pins.pin();
  }
  const std::uint8_t twice = pins.pin();
  pins.replace(make_table("newest"));
  pins.unpin(twice);
  EXPECT_EQ(name_in(pins.current()), "7");
  pins.unpin(held[0]);
  EXPECT_EQ(name_in(pins.current()), "newest");
}

TEST(TablePins, AnUnpinTooManyIsABug) {
  TablePins pins(make_table("first"));
  const std::uint8_t pin = pins.pin();
  pins.unpin(pin);
  EXPECT_DEATH(pins.unpin(pin), "unpinned twice");
}

// Whatever the order: what is pinned can be read, and in the end only the newest is left.
TEST(TablePins, InAnyOrder) {
  for (std::uint32_t seed = 1; seed <= 100; ++seed) {
    std::mt19937 random(seed);
    const auto below = [&](std::size_t bound) {
      return std::uniform_int_distribution<std::size_t>(0, bound - 1)(random);
    };
    std::vector<Watched> tables;
    tables.emplace_back("0");
    TablePins pins(tables[0].give());
    std::vector<std::pair<std::uint8_t, std::string>> held;
    for (int i = 0; i < 300; ++i) {
      const std::size_t choice = below(5);
      if (choice == 0) {
        tables.emplace_back(std::to_string(tables.size()));
        pins.replace(tables.back().give());
      } else if (choice <= 2) {
        held.emplace_back(pins.pin(), name_in(pins.current()));
      } else if (!held.empty()) {
        const std::size_t one = below(held.size());
        pins.unpin(held[one].first);
        held.erase(held.begin() + static_cast<std::ptrdiff_t>(one));
      }
      for (const auto& [pin, name] : held)
        ASSERT_EQ(name_in(pins.pinned(pin)), name) << "seed " << seed;
    }
    for (const auto& [pin, name] : held)
      pins.unpin(pin);
    EXPECT_EQ(name_in(pins.current()), std::to_string(tables.size() - 1)) << "seed " << seed;
    for (std::size_t i = 0; i + 1 < tables.size(); ++i)
      EXPECT_FALSE(tables[i].alive()) << "table " << i << ", seed " << seed;
  }
}

}  // namespace
}  // namespace tcpmux
