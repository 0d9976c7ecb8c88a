// A shard whose lanes, listeners and limits change while it runs: real threads, sockets and lanes,
// on both engines.
#include "tests/contract/shard_change_cases.h"
#include "tests/contract/shard_leave_cases.h"
#include "tests/contract/shard_pause_cases.h"
