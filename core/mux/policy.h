// Which sources may use a service: allow and deny lists of IPv4 and IPv6 prefixes, of which the
// longest that matches decides. Built once from configuration; a look-up allocates nothing and
// costs at most one step for each bit of the address.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/base/address.h"
#include "core/base/result.h"

namespace tcpmux {

struct Prefix {
  IpAddress address;  // bits behind `length` are zero
  int length = 0;     // 0 to 32 (IPv4) or 128 (IPv6)

  friend auto operator<=>(const Prefix&, const Prefix&) = default;
};

// "10.0.0.0/8", "::1" (the whole address), "::ffff:10.0.0.0/104" (the same as 10.0.0.0/8).
// Bits set behind the length are refused: they are a mistake more often than not.
Result<Prefix> parse_prefix(std::string_view text);
std::string to_string(const Prefix& prefix);

class AccessRules {
 public:
  AccessRules() = default;  // everyone
  // A prefix that stands in both lists is a clash, and refused by name.
  static Result<AccessRules> build(const std::vector<Prefix>& allow,
                                   const std::vector<Prefix>& deny);

  // The longest prefix that matches decides; where none does: allowed exactly when the allow list
  // is empty. An address without a family is never allowed where there is any rule.
  bool allows(const IpAddress& address) const;
  // True exactly when there is no rule at all, so that callers can skip the look-up.
  bool everyone() const { return nodes_.empty(); }

 private:
  enum class Verdict : std::uint8_t { kNone, kAllow, kDeny };
  // A binary tree over the address bits, as one array; node 0 is the root of IPv4, 1 of IPv6.
  struct Node {
    std::uint32_t child[2] = {0, 0};  // 0: none (a root is nobody's child)
    Verdict verdict = Verdict::kNone;
  };
  void insert(const Prefix& prefix, Verdict verdict);

  std::vector<Node> nodes_;
  bool allow_by_default_ = true;
};

}  // namespace tcpmux
