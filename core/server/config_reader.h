// Reads TOML tables key by key. Whoever reads a key makes it known, so the keys that are known,
// and what is suggested for one that is not, can never drift from those that are read.
#pragma once

#include <sys/types.h>

#include <toml++/toml.h>

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/result.h"
#include "core/server/complaints.h"

namespace tcpmux {

struct NumberRange {
  std::uint32_t least;
  std::uint32_t most;
};

template <class Value>
struct Placed {
  Value value;
  Place place;
};

struct StringList {
  std::vector<Placed<std::string>> strings;
  std::size_t length;  // of the list in the file, with those elements that are no strings
  Place place;
};

Place place_of(const toml::node& node);
Place place_of(const toml::key& key);

// What one run over a file gathers beside the values.
class Reading {
 public:
  explicit Reading(std::string source) : complaints(std::move(source)) {}

  // A section's known keys; "" is the top level.
  std::vector<std::string_view>& known_keys(std::string_view section);
  void add_unknown(std::string_view section, std::string_view path, const toml::key& key);
  // Complains of the unknown keys: only when all sections were read, because a key may be known
  // in another one.
  void complain_of_unknown_keys();

  Complaints complaints;

 private:
  struct UnknownKey {
    std::string section;
    std::string path;
    std::string key;
    Place place;
  };
  std::string advice_on(const UnknownKey& unknown) const;

  std::map<std::string, std::vector<std::string_view>, std::less<>> known_keys_;
  std::vector<UnknownKey> unknown_keys_;
};

// One table. Each read leaves its target alone where the key is absent or wrong, and complains of
// what is wrong. Keys are string literals: they are kept without a copy.
class TableReader {
 public:
  // `table` may be nullptr: then all keys are absent. `path` is the table's own ("handshake",
  // "services.echo", "" for the top level); tables with the same keys share a `section`.
  TableReader(Reading& reading, const toml::table* table, std::string path,
              std::string_view section);

  void read(std::string_view key, bool& to);
  void read(std::string_view key, std::uint32_t& to, NumberRange range);
  std::optional<Placed<std::string>> read_string(std::string_view key, std::string_view example);
  // The index in `names` of the word that stands there.
  std::optional<std::size_t> read_word(std::string_view key,
                                       std::span<const std::string_view> names);
  // nullopt exactly when the key is absent or no array.
  std::optional<StringList> read_strings(std::string_view key, std::string_view example);
  // Names, which are looked up, or numbers.
  void read_users(std::string_view key, std::vector<uid_t>& to);
  void read_groups(std::string_view key, std::vector<gid_t>& to);
  // nullptr when the key is absent or no table.
  const toml::table* read_table(std::string_view key);

  // To be called when all keys were read.
  void check_unknown_keys();

  Complaints& complaints() { return reading_.complaints; }

 private:
  const toml::node* find(std::string_view key);
  const toml::array* find_array(std::string_view key, std::string_view example);
  std::string path_of(std::string_view key) const;
  void complain_of_type(std::string_view key, const toml::node& node, std::string_view wanted,
                        std::string_view example);
  struct AccountKind {
    std::string_view name;
    Result<std::uint32_t> (*look_up)(const std::string& name);
  };
  void read_ids(std::string_view key, const AccountKind& kind, std::vector<std::uint32_t>& to);
  std::optional<std::uint32_t> read_id(std::string_view key, const AccountKind& kind,
                                       const toml::node& node);

  Reading& reading_;
  const toml::table* table_;
  std::string path_;
  std::string_view section_;
  std::vector<std::string_view>& known_keys_;
};

}  // namespace tcpmux
