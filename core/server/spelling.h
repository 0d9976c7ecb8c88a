// Which known word was probably meant by one that nobody knows.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace tcpmux {

// The known word that is nearest to `word`, where one is near enough to be worth asking about;
// else empty. Case and '-' for '_' do not count as differences.
std::string_view nearest_word(std::string_view word, std::span<const std::string_view> known);

// "a", "a or b", "a, b or c".
std::string one_of(std::span<const std::string_view> words);

}  // namespace tcpmux
