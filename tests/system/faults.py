"""A daemon one of whose system calls can be made to fail (tests/faults/fail_nth.cc), and the count
of those that were."""

import collections
import ctypes
import json
import os
import re
import socket

from daemon import Daemon
from processes import PATIENCE_S, binary, eventually

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_CHILD_SUBREAPER = 36
_LISTENING = "0A"


def is_sanitized():
    """A sanitizer makes thousands of calls before main(), and has its own words for failures."""
    with open(binary("tcpmuxd"), "rb") as program:
        return b"__asan_init" in program.read()


class FaultyDaemon(Daemon):
    """A daemon under fail_nth. nth=0: nothing fails until arm()."""

    def __init__(self, command, nth=0, variant=0):
        # Its supervisor is a child of its own, which comes to us when it has ended.
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._control, theirs = socket.socketpair()
        self._control.settimeout(PATIENCE_S)
        self._answers = self._control.makefile("r")
        number = theirs.fileno()
        wrapped = [binary("fail_nth"), "--control", number, "--nth", nth, "--variant", variant]
        with theirs:
            super().__init__(command, launcher=wrapped, pass_fds=[number])
        self._supervisor = self.status()["supervisor"]

    def _ask(self, line):
        self._control.sendall(line.encode() + b"\n")
        return json.loads(self._answers.readline())

    def arm(self, nth, variant=0):
        """Counts from here on, and fails the nth call. Gives what was until now."""
        return self._ask(f"arm {nth} {variant}")

    def disarm(self):
        return self.arm(0)

    def status(self):
        return self._ask("status")

    def kill(self):
        super().kill()
        if not self._answers.closed:
            self._answers.close()
            self._control.close()
            os.waitpid(self._supervisor, 0)

    def listening(self):
        """Where it listens, as the kernel says."""
        inodes = {match[1] for match in map(re.compile(r"socket:\[(\d+)\]").match,
                                            self.descriptors().values()) if match}
        with open("/proc/net/tcp", encoding="ascii") as table:
            for row in (line.split() for line in table.readlines()[1:]):
                if row[3] == _LISTENING and row[9] in inodes:
                    return ("127.0.0.1", int(row[1].split(":")[1], 16))
        return None

    def kinds_of_descriptors(self):
        """How many it has of each kind: "socket:[]", "anon_inode:[eventpoll]", a path."""
        return collections.Counter(re.sub(r"\d+", "", what) for what in self.descriptors().values())

    def wait_for_kinds_of_descriptors(self, before):
        eventually(
            lambda: self.kinds_of_descriptors() == before,
            f"descriptors {before}; they are {self.kinds_of_descriptors()}",
        )


class Tally:
    """Which calls were failed, by engine, scenario and call."""

    def __init__(self):
        self.counts = {}

    def add(self, engine, scenario, failed):
        by_call = self.counts.setdefault(engine, {}).setdefault(scenario, collections.Counter())
        by_call[f"{failed['call']} {failed['error']}"] += 1

    def total(self):
        return sum(sum(c.values()) for s in self.counts.values() for c in s.values())

    def report(self):
        """In words; and as failures.json in TCPMUX_FIGURES_DIR, where that is set."""
        if not self.counts:
            return
        print(f"{self.total()} system calls were failed, one at a time:")
        for engine, scenarios in self.counts.items():
            for scenario, by_call in scenarios.items():
                calls = ", ".join(f"{call} {count}" for call, count in sorted(by_call.items()))
                print(f"  {engine}, {scenario}: {sum(by_call.values())} ({calls})")
        folder = os.environ.get("TCPMUX_FIGURES_DIR")
        if folder:
            with open(os.path.join(folder, "failures.json"), "w", encoding="utf-8") as file:
                json.dump({"failed": self.total(), "by_engine": self.counts}, file, indent=1)
