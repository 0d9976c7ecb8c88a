"""Where a comparison runs: the machine, its cores, the programs, and what else is busy there."""

import contextlib
import os
import pathlib
import platform
import random
import re
import resource
import shutil
import socket
import subprocess
import time

from suite.processes import LeftOut, kernel_thread, read

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PEERS = ROOT / "build-peers"  # bench/setup puts them there
DESCRIPTORS_MAX = 40_000  # enough; nginx takes memory for as many as it is told
TEMPLATES = ROOT / "bench/peers"


class Place:
    """The server has a core for itself; the clients and the backends share another."""

    def __init__(self, build):
        self.build = build
        self.cores = sorted(os.sched_getaffinity(0))
        self.server_core, self.client_core = self.cores[0], self.cores[-1]
        self.softirq_thread = kernel_thread(f"ksoftirqd/{self.server_core}")
        self.descriptors = min(DESCRIPTORS_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[1])

    def program(self, name):
        for folder in (self.build / "bin", self.build / "bench"):
            if (folder / name).exists():
                return folder / name
        raise LeftOut(f"{name} is not built")

    @staticmethod
    def peer(name):
        for folder in (PEERS / "usr/sbin", pathlib.Path("/usr/sbin")):
            if (folder / name).exists():
                return folder / name
        found = shutil.which(name)
        if found is None:
            raise LeftOut(f"{name} is not there: bench/setup")
        return pathlib.Path(found)


def free_port():
    """Below those that the kernel gives to clients by chance (ip_local_port_range)."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


# --- what else is busy ---


def busy_seconds():
    """CPU time spent by everything on this machine, and now."""
    ticks = [int(field) for field in read("/proc/stat").splitlines()[0].split()[1:]]
    idle = ticks[3] + ticks[4]
    return (sum(ticks[:8]) - idle) / os.sysconf("SC_CLK_TCK"), time.monotonic()


def foreign_load(before, own_us):
    """Cores that were busy with something else meanwhile, roughly: the clock ticks are coarse."""
    after = busy_seconds()
    busy = after[0] - before[0] - own_us / 1e6
    return round(max(0.0, busy / (after[1] - before[1])), 2)


# --- for the head of a report ---


def about(build, command):
    return {
        "machine": machine(),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "commit": commit(build),
        "build": f"{build_type(build)} build",
        "command": command,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "peers": peer_versions(),
    }


def machine():
    cpu_info = read("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", cpu_info)
    virtual = "virtual machine, " if re.search(r"^flags.*\bhypervisor\b", cpu_info, re.M) else ""
    cores = len(os.sched_getaffinity(0))
    return f"{virtual}{cores} cores ({model[1] if model else 'unknown'})"


def git(*arguments):
    done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True)
    return done.stdout.strip()


def commit(build):
    tracked = git("status", "--porcelain", "--untracked-files=no")
    changed = ", with changes not yet committed" if tracked else ""
    built = (build / "bin/tcpmuxd").stat().st_mtime
    sources = [file for folder in ("core", "handoff") for file in (ROOT / folder).rglob("*.[ch]*")]
    stale = any(file.stat().st_mtime > built for file in sources)
    older = ", but built before the last change" if stale else ""
    return f"{git('rev-parse', '--short', 'HEAD') or 'unknown'}{changed}{older}"


def build_type(build):
    found = re.search(r"CMAKE_BUILD_TYPE:\w+=(\w+)", read(build / "CMakeCache.txt"))
    return found[1] if found else "unknown"


def peer_versions():
    folder = PEERS / ".unpacked"
    files = sorted(folder.iterdir()) if folder.exists() else []
    return {file.name: read(file).strip() for file in files}
