#include "core/server/config_reader.h"

#include <algorithm>
#include <type_traits>

#include "core/server/accounts.h"
#include "core/server/spelling.h"

namespace tcpmux {
namespace {

static_assert(std::is_same_v<uid_t, std::uint32_t> && std::is_same_v<gid_t, std::uint32_t>);
// The last number means "no change" to chown and its like, and is nobody's.
constexpr std::int64_t kIdMax = UINT32_MAX - std::int64_t{1};

std::string_view name_of(toml::node_type type) {
  switch (type) {
    case toml::node_type::none:
      return "nothing";
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "a list";
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return "a whole number";
    case toml::node_type::floating_point:
      return "a floating-point number";
    case toml::node_type::boolean:
      return "a boolean";
    case toml::node_type::date:
      return "a date";
    case toml::node_type::time:
      return "a time";
    case toml::node_type::date_time:
      return "a date with a time";
  }
  return "something else";
}

std::string heading_of(std::string_view section) {
  if (section.empty()) return "at the top of the file, above its first [section]";
  return "under [" + std::string(section) + "]";
}

std::string listed(std::vector<std::string_view> keys) {
  std::sort(keys.begin(), keys.end());
  std::string list;
  for (const std::string_view key : keys)
    list += (list.empty() ? "" : ", ") + std::string(key);
  return list;
}

bool holds(const std::vector<std::string_view>& keys, std::string_view key) {
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

}  // namespace

Place place_of(const toml::node& node) {
  return {node.source().begin.line, node.source().begin.column};
}

Place place_of(const toml::key& key) {
  return {key.source().begin.line, key.source().begin.column};
}

std::vector<std::string_view>& Reading::known_keys(std::string_view section) {
  return known_keys_[std::string(section)];
}

void Reading::add_unknown(std::string_view section, std::string_view path, const toml::key& key) {
  unknown_keys_.push_back(
      {std::string(section), std::string(path), std::string(key.str()), place_of(key)});
}

void Reading::complain_of_unknown_keys() {
  for (const UnknownKey& unknown : unknown_keys_) {
    const std::string where = unknown.path.empty() ? "" : " in [" + unknown.path + "]";
    complaints.add(unknown.place,
                   "unknown key " + quoted(unknown.key) + where + "; " + advice_on(unknown));
  }
  unknown_keys_.clear();
}

std::string Reading::advice_on(const UnknownKey& unknown) const {
  if (!unknown.key.empty() && known_keys_.contains(unknown.key))
    return "it is a section of its own: write [" + unknown.key +
           "] and its keys in the lines below";
  std::vector<std::string> headings;
  for (const auto& [section, keys] : known_keys_)
    if (holds(keys, unknown.key)) headings.push_back(heading_of(section));
  if (!headings.empty())
    return "it stands " + one_of(std::vector<std::string_view>(headings.begin(), headings.end()));
  const std::vector<std::string_view>& keys = known_keys_.find(unknown.section)->second;
  const std::string_view nearest = nearest_word(unknown.key, keys);
  if (!nearest.empty()) return "did you mean '" + std::string(nearest) + "'?";
  return "the keys known here: " + listed(keys);
}

TableReader::TableReader(Reading& reading, const toml::table* table, std::string path,
                         std::string_view section)
    : reading_(reading),
      table_(table),
      path_(std::move(path)),
      section_(section),
      known_keys_(reading.known_keys(section)) {}

const toml::node* TableReader::find(std::string_view key) {
  if (!holds(known_keys_, key)) known_keys_.push_back(key);
  return table_ == nullptr ? nullptr : table_->get(key);
}

std::string TableReader::path_of(std::string_view key) const {
  return path_.empty() ? std::string(key) : path_ + "." + std::string(key);
}

void TableReader::complain_of_type(std::string_view key, const toml::node& node,
                                   std::string_view wanted, std::string_view example) {
  complaints().add(place_of(node), path_of(key) + " must be " + std::string(wanted) + ", not " +
                                       std::string(name_of(node.type())) + "; write it as " +
                                       std::string(key) + " = " + std::string(example));
}

void TableReader::read(std::string_view key, bool& to) {
  const toml::node* const node = find(key);
  if (node == nullptr) return;
  const toml::value<bool>* const value = node->as_boolean();
  if (value == nullptr) return complain_of_type(key, *node, "true or false", to ? "true" : "false");
  to = value->get();
}

void TableReader::read(std::string_view key, std::uint32_t& to, NumberRange range) {
  const toml::node* const node = find(key);
  if (node == nullptr) return;
  const toml::value<std::int64_t>* const value = node->as_integer();
  if (value == nullptr) return complain_of_type(key, *node, "a whole number", std::to_string(to));
  const std::int64_t number = value->get();
  if (number >= range.least && number <= range.most) {
    to = static_cast<std::uint32_t>(number);
    return;
  }
  complaints().add(place_of(*node),
                   path_of(key) + " = " + std::to_string(number) + " is out of range; it is from " +
                       std::to_string(range.least) + " to " + std::to_string(range.most));
}

std::optional<Placed<std::string>> TableReader::read_string(std::string_view key,
                                                            std::string_view example) {
  const toml::node* const node = find(key);
  if (node == nullptr) return std::nullopt;
  if (const auto* const text = node->as_string())
    return Placed<std::string>{text->get(), place_of(*node)};
  complain_of_type(key, *node, "a string", example);
  return std::nullopt;
}

std::optional<std::size_t> TableReader::read_word(std::string_view key,
                                                  std::span<const std::string_view> names) {
  const auto word = read_string(key, "\"" + std::string(names.front()) + "\"");
  if (!word) return std::nullopt;
  const auto found = std::find(names.begin(), names.end(), word->value);
  if (found != names.end()) return static_cast<std::size_t>(found - names.begin());
  const std::string_view nearest = nearest_word(word->value, names);
  const std::string hint = nearest.empty() ? "" : "; did you mean '" + std::string(nearest) + "'?";
  complaints().add(word->place, path_of(key) + " must be " + one_of(names) + ", not " +
                                    quoted(word->value) + hint);
  return std::nullopt;
}

const toml::array* TableReader::find_array(std::string_view key, std::string_view example) {
  const toml::node* const node = find(key);
  if (node == nullptr) return nullptr;
  if (node->as_array() == nullptr) complain_of_type(key, *node, "a list", example);
  return node->as_array();
}

std::optional<StringList> TableReader::read_strings(std::string_view key,
                                                    std::string_view example) {
  const toml::array* const array = find_array(key, example);
  if (array == nullptr) return std::nullopt;
  StringList list{.strings = {}, .length = array->size(), .place = place_of(*array)};
  for (const toml::node& node : *array) {
    if (const auto* const text = node.as_string()) {
      list.strings.push_back({text->get(), place_of(node)});
    } else {
      complain_of_type(key, node, "a list of strings", example);
    }
  }
  return list;
}

void TableReader::read_users(std::string_view key, std::vector<uid_t>& to) {
  read_ids(key, {.name = "user", .look_up = find_user}, to);
}

void TableReader::read_groups(std::string_view key, std::vector<gid_t>& to) {
  read_ids(key, {.name = "group", .look_up = find_group}, to);
}

void TableReader::read_ids(std::string_view key, const AccountKind& kind,
                           std::vector<std::uint32_t>& to) {
  const toml::array* const array = find_array(key, "[\"www-data\", 33]");
  if (array == nullptr) return;
  to.clear();
  for (const toml::node& node : *array)
    if (const auto id = read_id(key, kind, node)) to.push_back(*id);
}

std::optional<std::uint32_t> TableReader::read_id(std::string_view key, const AccountKind& kind,
                                                  const toml::node& node) {
  if (const auto* const number = node.as_integer()) {
    const std::int64_t id = number->get();
    if (id >= 0 && id <= kIdMax) return static_cast<std::uint32_t>(id);
    complaints().add(place_of(node), path_of(key) + ": " + std::to_string(id) +
                                         " is out of range; the number of a " +
                                         std::string(kind.name) + " is from 0 to " +
                                         std::to_string(kIdMax));
    return std::nullopt;
  }
  const auto* const name = node.as_string();
  if (name == nullptr) {
    complain_of_type(key, node, "a list of names and numbers", "[\"www-data\", 33]");
    return std::nullopt;
  }
  const Result<std::uint32_t> id = kind.look_up(name->get());
  if (id) return *id;
  complaints().add(place_of(node), path_of(key) + ": " + id.error().message +
                                       "; write a name that this machine knows, or a number "
                                       "(without quotes)");
  return std::nullopt;
}

const toml::table* TableReader::read_table(std::string_view key) {
  const toml::node* const node = find(key);
  if (node == nullptr || node->is_table()) return node == nullptr ? nullptr : node->as_table();
  complaints().add(place_of(*node), path_of(key) + " must be a table, not " +
                                        std::string(name_of(node->type())) + "; write [" +
                                        path_of(key) + "] and its keys in the lines below");
  return nullptr;
}

void TableReader::check_unknown_keys() {
  if (table_ == nullptr) return;
  for (const auto& [key, node] : *table_)
    if (!holds(known_keys_, key.str())) reading_.add_unknown(section_, path_, key);
}

}  // namespace tcpmux
