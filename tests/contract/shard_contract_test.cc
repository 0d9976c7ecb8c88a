// A shard, whole: real threads, sockets and lanes, on both engines.
#include "tests/contract/shard_handoff_cases.h"
#include "tests/contract/shard_handshake_cases.h"
#include "tests/contract/shard_shutdown_cases.h"
#include "tests/contract/shard_stall_cases.h"
#include "tests/contract/shard_takeback_cases.h"
