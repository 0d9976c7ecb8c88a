// What happens when memory runs out. All that a shard needs it has when it starts; the steward goes
// on allocating, for backends that register. A reserve lets it finish what it is at, and refuse
// those that come then.
#pragma once

#include <cstddef>

namespace tcpmux {

// The handler of operator new (std::set_new_handler): says that memory has run out, and ends the
// process with exit code 1. An operator can do something about it, a program that is in the middle
// of something cannot.
void out_of_memory();

// False where there is no memory for the reserve.
bool keep_memory_reserve();

// From here on the calling thread (the steward) gets the reserve instead, once. Other threads see
// std::bad_alloc: the log's thread, which loses a line by it.
void use_memory_reserve();

// True while the reserve is whole, or can be made so, and there are `bytes` beside it. Else nothing
// new is to be taken on. Always true before use_memory_reserve(), and on other threads.
bool memory_is_there_for(std::size_t bytes);

}  // namespace tcpmux
