"""A daemon that is upgraded: a chain of processes, of which each starts the next. All write into
one pipe, that of the first."""

import ctypes
import os
import re
import signal
import time

from control import ask, control_path_beside
from daemon import Daemon, parse_counters
from processes import PATIENCE_S, eventually

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans():
    """Processes whose parent ends become children of ours, so that their end can be waited for."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Generations(Daemon):
    """`current` is the pid of the process that serves."""

    def __init__(self, command, registry, **child_options):
        adopt_orphans()
        super().__init__(command, **child_options)
        self.control = control_path_beside(registry)
        self.pids = [self.pid]
        self._exit_codes = {}

    @property
    def current(self):
        return self.pids[-1]

    def ask(self, command):
        return ask(self.control, command)

    def descriptors_of_current(self):
        return os.listdir(f"/proc/{self.current}/fd")

    def upgrade(self):
        """Asks for an upgrade that succeeds; gives the reply."""
        reply = self.ask("upgrade")
        if not reply["ok"]:
            raise AssertionError(reply["error"])
        self.pids.append(reply["new_pid"])
        # The new one takes the path of the control socket when it serves.
        eventually(lambda: self.status()["pid"] == self.current, "the new one answers")
        return reply

    def upgrade_by_signal(self):
        since = self.mark()
        os.kill(self.current, signal.SIGUSR2)
        line = self.wait_for_line(r"upgrade: pid \d+ serves", since)
        self.pids.append(int(re.search(r"pid (\d+)", line)[1]))
        eventually(lambda: self.status()["pid"] == self.current, "the new one answers")

    def status(self):
        try:
            return self.ask("status")
        except OSError:
            return {"pid": None}

    def wait_gone(self, pid):
        """Waits for the end of a process, and gives its exit code."""
        if pid not in self._exit_codes:
            self._exit_codes[pid] = self._wait_for_end(pid)
        return self._exit_codes[pid]

    def _wait_for_end(self, pid):
        if pid == self.pid:
            return self.process.wait(PATIENCE_S)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                ended, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:  # not an orphan yet: its parent has not ended
                ended = 0
            if ended == pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        raise AssertionError(f"process {pid} does not end:\n{self.text()}")

    def stop(self):
        """Ends the one that serves, and checks that each has ended well."""
        if self.stopped:
            return
        self.stopped = True
        try:
            os.kill(self.current, signal.SIGTERM)
            codes = [self.wait_gone(pid) for pid in self.pids]
            if any(codes):
                raise AssertionError(f"exit codes {codes}\n{self.text()}")
        finally:
            self.kill()
        self.check_clean()
        self.check_balance()

    def kill(self):
        for pid in self.pids[1:]:
            try:
                os.kill(pid, signal.SIGKILL)
                self.wait_gone(pid)
            except ProcessLookupError:
                pass
        super().kill()

    def all_counters(self):
        return [
            parse_counters(line) for line in self.text().splitlines() if "counters:" in line
        ]

    def check_balance(self):
        """Every connection of each process has ended in one way, or in the next process."""
        every = self.all_counters()
        for counters in every:
            self.check_one_balance(counters)
        passed_on = sum(one["passed_on"] for one in every)
        inherited = sum(one["inherited"] for one in every)
        if passed_on != inherited:
            raise AssertionError(f"{passed_on} were passed on, {inherited} came")
