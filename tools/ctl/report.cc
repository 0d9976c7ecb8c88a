#include "tools/ctl/report.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

namespace ctl {
namespace {

using nlohmann::json;

enum class Align : std::uint8_t { kLeft, kRight };

// Rows of words, each column as wide as its widest.
class Table {
 public:
  explicit Table(std::vector<Align> columns) : columns_(std::move(columns)) {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string text() const {
    std::vector<std::size_t> widths(columns_.size(), 0);
    for (const auto& row : rows_)
      for (std::size_t i = 0; i < row.size(); ++i)
        widths[i] = std::max(widths[i], row[i].size());
    std::string all;
    for (const auto& row : rows_) {
      std::string line = " ";
      for (std::size_t i = 0; i < row.size(); ++i)
        line += columns_[i] == Align::kRight ? fmt::format(" {:>{}} ", row[i], widths[i])
                                             : fmt::format(" {:<{}} ", row[i], widths[i]);
      line.erase(line.find_last_not_of(' ') + 1);
      all += line + "\n";
    }
    return all;
  }

 private:
  std::vector<Align> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// A value as a word for a terminal: nothing in it moves the cursor.
std::string word(const json& value) {
  std::string text = value.is_null() ? "-"
                     : value.is_string()
                         ? value.get<std::string>()
                         : value.dump(-1, ' ', false, json::error_handler_t::replace);
  for (char& byte : text)
    if (static_cast<unsigned char>(byte) < 0x20 || byte == 0x7F) byte = '?';
  return text;
}

std::string word(const json& from, const char* key) {
  return from.contains(key) ? word(from[key]) : "-";
}

std::string joined(const json& list) {
  std::string all;
  for (const json& one : list)
    all += (all.empty() ? "" : ", ") + word(one);
  return all.empty() ? "-" : all;
}

std::string facts(const json& reply) {
  Table table({Align::kLeft, Align::kLeft});
  const json listening = reply.value("listening", json::array());
  for (std::size_t i = 0; i < listening.size(); ++i)
    table.add({i == 0 ? "listening on" : "", word(listening[i])});
  const std::string engine = word(reply, "engine");
  table.add({"engine", reply.contains("engine_remark") ? word(reply, "engine_remark") : engine});
  table.add({"shards", word(reply, "shards")});
  table.add({"configuration", reply.value("configuration", json()).is_null()
                                  ? "the defaults"
                                  : word(reply, "configuration")});
  table.add({"registry", word(reply, "registry")});
  table.add({"control", word(reply, "control")});
  const json descriptors = reply.value("descriptors", json::object());
  table.add({"descriptors", word(descriptors, "used") + " of " + word(descriptors, "limit")});
  return table.text();
}

std::string backends_table(const json& backends) {
  if (backends.empty()) return "\nno backend is registered\n";
  using enum Align;
  Table table({kRight, kRight, kLeft, kLeft, kRight, kRight, kRight, kLeft, kLeft});
  table.add({"ID", "PID", "USER", "SERVES", "LANES", "WINDOW", "BATCH", "SINCE", "STATE"});
  for (const json& one : backends)
    table.add({word(one, "id"), word(one, "pid"), word(one, "user"),
               joined(one.value("names", json::array())), word(one, "lanes"), word(one, "window"),
               word(one, "batch"), duration_words(one.value("seconds", 0.0)),
               one.value("draining", false) ? "draining" : "serving"});
  return fmt::format("\nbackends: {}\n{}", backends.size(), table.text());
}

// A row for each counter: the sum, and each shard's.
void add_counters(Table& table, const json& sum, const std::vector<json>& shards,
                  const std::string& indent) {
  for (const auto& [name, value] : sum.items()) {
    if (value.is_object()) continue;
    std::vector<std::string> row = {indent + name, word(value)};
    if (shards.size() > 1)
      for (const json& shard : shards)
        row.push_back(word(shard, name.c_str()));
    table.add(std::move(row));
  }
}

std::string counters_table(const json& reply) {
  const json sum = reply.value("counters", json::object());
  const auto shards = reply.value("counters_by_shard", json::array()).get<std::vector<json>>();
  std::vector<Align> columns(2 + shards.size(), Align::kRight);
  columns.front() = Align::kLeft;
  Table table(std::move(columns));
  std::vector<std::string> heading = {"", "ALL"};
  if (shards.size() > 1)
    for (std::size_t i = 0; i < shards.size(); ++i)
      heading.push_back(fmt::format("SHARD {}", i));
  table.add(std::move(heading));
  add_counters(table, sum, shards, "");
  if (sum.contains("refused")) {
    std::vector<json> refused;
    for (const json& shard : shards)
      refused.push_back(shard.value("refused", json::object()));
    add_counters(table, sum["refused"], refused, "refused: ");
  }
  return "\ncounters\n" + table.text();
}

}  // namespace

std::string duration_words(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::max(seconds, 0.0));
  struct Unit {
    std::int64_t seconds;
    const char* name;
  };
  constexpr std::array kUnits = {Unit{86'400, "d"}, Unit{3600, "h"}, Unit{60, "min"}, Unit{1, "s"}};
  for (std::size_t i = 0; i + 1 < kUnits.size(); ++i) {
    if (whole < kUnits[i].seconds) continue;
    const std::int64_t rest = whole % kUnits[i].seconds / kUnits[i + 1].seconds;
    return fmt::format("{} {} {} {}", whole / kUnits[i].seconds, kUnits[i].name, rest,
                       kUnits[i + 1].name);
  }
  return fmt::format("{} s", whole);
}

std::string status_page(const json& reply) {
  return fmt::format("tcpmuxd {}, pid {}: {} for {}\n\n{}{}{}", word(reply, "version"),
                     word(reply, "pid"), word(reply, "state"),
                     duration_words(reply.value("uptime_seconds", 0.0)), facts(reply),
                     backends_table(reply.value("backends", json::array())), counters_table(reply));
}

}  // namespace ctl
