"""Runs tcpmux-load against a server, and says what each connection cost whom."""

import json
import os
import subprocess
import time

from suite.place import busy_seconds, foreign_load
from suite.processes import Child, LeftOut, children_cpu_us

RUN_SECONDS = 90
SERVE_SECONDS = 15  # from the start of a server to its first reply


class Load:
    def __init__(self, place):
        self.place = place

    def command(self, port, arguments):
        load = self.place.program("tcpmux-load")
        return [str(part) for part in [load, "--no-progress", *arguments, f"127.0.0.1:{port}"]]

    def run(self, running, *arguments, urgent=False):
        """The load's own JSON, with "cost": CPU and wake-ups per connection by role. Where it is
        `urgent`, the clients do not wait for the time slice of the backend on their core."""
        watched = {"server": [running.server]}
        if running.backends:
            watched["backend"] = running.backends
        if self.place.softirq_thread is not None:
            watched["softirq"] = [self.place.softirq_thread]
        pids = [pid for role in watched.values() for pid in role]
        arguments = [*arguments, "--json", *(f"--cpu-of={pid}" for pid in pids)]
        before = busy_seconds()
        waited_for_us = children_cpu_us(running.server)
        result = self.execute(running.port, arguments, urgent)
        waited_for_us = children_cpu_us(running.server) - waited_for_us
        each = max(1, result["completed"])
        result["cost"] = costs(result["processes"], watched, waited_for_us / each)
        own_us = result["client"]["cpu_us_per_connection"]
        own_us += sum(cost["cpu_us"] for cost in result["cost"].values())
        result["foreign_load"] = foreign_load(before, own_us * each)
        for child in running.children:
            child.check()
        if result["completed"] == 0:
            raise LeftOut(f"it served nobody: {failures(result) or 'no reason known'}")
        return result

    def execute(self, port, arguments, urgent=False):
        first = ["nice", "-n", "-10"] if urgent and os.geteuid() == 0 else []
        core = ["taskset", "-c", str(self.place.client_core)]
        command = [*first, *core, *self.command(port, arguments)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise LeftOut(f"tcpmux-load did not end in {RUN_SECONDS} s") from error
        if done.returncode not in (0, 1):
            raise LeftOut(f"tcpmux-load: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def wait_until_served(self, running, service="discard"):
        deadline = time.monotonic() + SERVE_SECONDS
        once = ["--connections=1", "--count=1", "--timeout=2000", f"--service={service}", "--json"]
        while failures(result := self.execute(running.port, once)):
            for child in running.children:
                child.check()
            if time.monotonic() > deadline:
                raise LeftOut(f"it does not serve: {failures(result)}")
            time.sleep(0.02)

    def hold(self, running, count, settle_seconds):
        """Half a request line on each of `count` connections, until the child is stopped. They
        are connected when the kernel says so; the server, which may sleep, is given time to
        accept and read them."""
        arguments = ["--hold", "--kind=half", f"--connections={count}", "--duration=600"]
        holder = Child(self.command(running.port, arguments), [self.place.client_core])
        try:
            holder.wait_for(rf"holding {count}\n")
            time.sleep(settle_seconds)
            holder.check()
        except BaseException:
            holder.stop()
            raise
        return holder


def costs(processes, watched, children_us):
    """By role. What a forking server's children used is the server's."""
    by_pid = {process["pid"]: process for process in processes}
    result = {}
    for role, pids in watched.items():
        seen = [by_pid[pid] for pid in pids if pid in by_pid]
        result[role] = {
            "cpu_us": sum(process["cpu_us_per_connection"] for process in seen),
            "wakeups": sum(process["wakeups_per_connection"] for process in seen),
        }
    result["server"]["cpu_us"] += children_us
    return result


def failures(result):
    """ "12 refused, 3 timed out"; empty when all is well."""
    counts = result["failures"].items()
    return ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in counts if count > 0)
