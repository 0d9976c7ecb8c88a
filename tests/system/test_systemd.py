"""Guards that a real systemd takes tcpmuxd for what it is: started with Type=notify, reloaded, and
after an upgrade the new process is the service's main one.

A systemd of our own, in namespaces of our own (unshare(1)); skipped where there is none, or they
cannot be made."""

import os
import shutil
import signal
import subprocess
import unittest

from control import ask, control_path_beside
from harness import SystemTest, binary, eventually, main, on_both_engines

SYSTEMD = "/lib/systemd/systemd"
ECHO = {"services": {"echo": {}}}

BOOT = f"""
mount -t tmpfs none /run
umount -R /sys/fs/cgroup 2>/dev/null
mount -t cgroup2 none /sys/fs/cgroup || exit 1
export container=other
exec {SYSTEMD} --system --unit=mux.service --log-target=console
"""

UNIT = """
[Unit]
DefaultDependencies=no
[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
ExecReload={ctl} ctl reload --registry {registry}
"""

NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--cgroup", "--kill-child"]


def why_no_systemd():
    if os.geteuid() != 0:
        return "only root may make namespaces"
    for program in [SYSTEMD, "unshare", "nsenter", "systemctl"]:
        if not shutil.which(program):
            return f"{program} is not installed"
    probe = "umount -R /sys/fs/cgroup 2>/dev/null; mount -t cgroup2 none /sys/fs/cgroup"
    made = subprocess.run([*NAMESPACES, "sh", "-c", probe], capture_output=True, check=False)
    return f"no namespaces: {made.stderr.decode().strip()}" if made.returncode else None


@on_both_engines
@unittest.skipIf(why_no_systemd(), why_no_systemd())
class Systemd(SystemTest):
    def boot(self):
        config = self.write_config({"listen": ["127.0.0.1:0"], **ECHO})
        flags = f"--config {config} --engine {self.engine} --registry {self.registry}"
        units = os.path.join(self.directory, "units")
        os.mkdir(units)
        with open(os.path.join(units, "mux.service"), "w", encoding="utf-8") as file:
            command = f"{os.path.abspath(binary('tcpmuxd'))} {flags}"
            ctl = os.path.abspath(binary("tcpmux"))
            file.write(UNIT.format(command=command, ctl=ctl, registry=self.registry))
        self.systemd = subprocess.Popen(
            [*NAMESPACES, "bash", "-c", BOOT],
            env={**os.environ, "SYSTEMD_UNIT_PATH": units},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.addCleanup(self.end)
        eventually(lambda: self.shown("ActiveState") == "active", "the service is active")

    def end(self):
        """The first process of a namespace takes all others with it."""
        self.systemd.send_signal(signal.SIGKILL)
        self.systemd.wait()

    def first_process(self):
        path = f"/proc/{self.systemd.pid}/task/{self.systemd.pid}/children"
        with open(path, encoding="ascii") as children:
            return children.read().split()[0]

    def systemctl(self, *words):
        try:
            inside = ["nsenter", "--target", self.first_process(), "--mount", "--pid"]
        except (IndexError, FileNotFoundError):
            return subprocess.CompletedProcess([], 1, "", "it has not begun")
        command = [*inside, "systemctl", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def shown(self, name):
        return self.systemctl("show", "mux", "--property", name, "--value").stdout.strip()

    def ask(self, command):
        return ask(control_path_beside(self.registry), command)

    def test_its_life(self):
        self.boot()
        first = self.ask("status")
        self.assertEqual(self.shown("MainPID"), str(first["pid"]))
        host, port = first["listening"][0].rsplit(":", 1)
        address = (host, int(port))
        self.serve(self.backend("echo", window=64))
        self.assert_served(address)
        reloaded = self.systemctl("reload", "mux")
        self.assertEqual(reloaded.returncode, 0, reloaded.stderr)

        for _ in range(3):
            reply = self.ask("upgrade")
            self.assertTrue(reply["ok"], reply)
            new_pid = str(reply["new_pid"])
            eventually(lambda: self.shown("MainPID") == new_pid, "it is the main process")
            eventually(
                lambda: "serving on" in self.shown("StatusText"), "it has said that it serves"
            )
            self.assertEqual(self.shown("ActiveState"), "active")
            self.assert_served(address)
        self.assertEqual(self.shown("NRestarts"), "0")

        stopped = self.systemctl("stop", "mux")
        self.assertEqual(stopped.returncode, 0, stopped.stderr)
        self.assertEqual(self.shown("Result"), "success", self.systemctl("show", "mux").stdout)


if __name__ == "__main__":
    main()
