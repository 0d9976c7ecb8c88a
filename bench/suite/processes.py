"""Processes that are started, watched and ended by their number, whatever happens."""

import os
import pathlib
import re
import select
import signal
import subprocess
import time

REFUSED = 77  # exit status of a program that the kernel refuses what it needs
KERNEL_REFUSES = "needs what the kernel refuses"
START_SECONDS = 60  # a million services are read in about six
END_SECONDS = 20


class LeftOut(Exception):
    """Why a server is not part of a comparison: a sentence for the report."""


class Child:
    """A process of ours. What it says is read from one of its streams; the other is dropped."""

    def __init__(self, command, cores, say_on="stdout"):
        pinned = ["taskset", "-c", ",".join(map(str, cores)), *map(str, command)]
        try:
            self.process = subprocess.Popen(
                pinned,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if say_on == "stdout" else subprocess.DEVNULL,
                stderr=subprocess.PIPE if say_on == "stderr" else subprocess.DEVNULL,
            )
        except OSError as error:
            raise LeftOut(str(error)) from error
        self.name = pathlib.Path(str(command[0])).name
        self.pipe = getattr(self.process, say_on)
        self.text = ""

    @property
    def pid(self):
        return self.process.pid

    def wait_for(self, pattern):
        deadline = time.monotonic() + START_SECONDS
        while not (found := re.search(pattern, self.text)):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.pipe], [], [], left)[0]:
                raise LeftOut(f"{self.name} did not start in {START_SECONDS} s: {self.last_line()}")
            more = os.read(self.pipe.fileno(), 65536).decode(errors="replace")
            if not more:
                refused = self.process.wait() == REFUSED
                why = KERNEL_REFUSES if refused else "ended"
                raise LeftOut(f"{self.name} {why}: {self.last_line()}")
            self.text += more
        return found

    def check(self):
        if self.process.poll() is not None:
            self.text += os.read(self.pipe.fileno(), 65536).decode(errors="replace")
            raise LeftOut(f"{self.name} ended ({self.process.returncode}): {self.last_line()}")

    def last_line(self):
        lines = self.text.strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)  # it may have been stopped for a backlog
            self.process.terminate()
            try:
                self.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.pipe.close()


class Detached:
    """A daemon that left its parent: known by the file in which it wrote its number."""

    def __init__(self, pid_file):
        deadline = time.monotonic() + START_SECONDS
        while not (text := read(pid_file)).endswith("\n"):
            if time.monotonic() > deadline:
                raise LeftOut(f"no number in {pid_file}")
            time.sleep(0.01)
        self.pid = int(text)
        self.name = read(f"/proc/{self.pid}/comm").strip()
        try:
            self.handle = os.pidfd_open(self.pid)
        except OSError as error:
            raise LeftOut(f"the daemon {self.pid} has ended: {error}") from error

    def check(self):
        if self.ended(0):
            raise LeftOut(f"{self.name} ended")

    def ended(self, seconds):
        return bool(select.select([self.handle], [], [], seconds)[0])

    def stop(self):
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self.ended(0):
                signal.pidfd_send_signal(self.handle, number)
                self.ended(END_SECONDS)
        os.close(self.handle)


def read(path):
    """A file's text; empty when there is none, as for a process that has just ended."""
    try:
        return pathlib.Path(path).read_text()
    except OSError:
        return ""


def kernel_thread(name):
    """Its number, or None where the kernel's threads cannot be seen."""
    for comm in pathlib.Path("/proc").glob("[0-9]*/comm"):
        if read(comm).strip() == name:
            return int(comm.parent.name)
    return None


def children_cpu_us(pid):
    """Of the children that a process has waited for. The kernel counts it in clock ticks."""
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return sum(map(int, fields[13:15])) * 1e6 / os.sysconf("SC_CLK_TCK") if fields else 0.0


def family(pid):
    """A process and all that descend from it."""
    found = [pid]
    for one in found:
        found += map(int, read(f"/proc/{one}/task/{one}/children").split())
    return found


def private_bytes(pid):
    """Memory that a process and its descendants have written to and share with nobody. Pages that
    were only read are files', and private or not by who else runs the same program."""
    total = 0
    for one in family(pid):
        for kind in re.findall(r"^Private_Dirty:\s+(\d+) kB", smaps(one), re.M):
            total += int(kind) * 1024
    return total


def smaps(pid):
    return read(f"/proc/{pid}/smaps_rollup")
