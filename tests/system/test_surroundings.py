"""Guards that hostile surroundings are noticed, said and survived: memory that runs out, a log that
cannot be written, a registry path that is removed or taken by somebody else."""

import os
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import unittest

from backend import NO_ROOM, Backend, Refused
from faults import is_sanitized
from harness import PATIENCE_S, SystemTest, eventually, exchange, main, on_both_engines
from ports import free_port

ECHO = {"services": {"echo": {}}}
OPEN = {"registry": {"open": True}, "handoff": {"window_max": 16_384}, **ECHO}
MEBIBYTE = 1 << 20
SHADOW = "a sanitizer's shadow memory is larger than any cap"


def memory_bytes(daemon):
    """Its address space, which RLIMIT_AS counts."""
    with open(f"/proc/{daemon.pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


@on_both_engines
class Memory(SystemTest):
    @unittest.skipIf(is_sanitized(), SHADOW)
    def test_too_little_to_start(self):
        """Whatever it is that does not fit: one line says so, and nothing is left."""
        started = self.start_daemon(OPEN)
        enough = memory_bytes(started)
        started.stop()
        outcomes = set()
        for eighths in range(1, 9):
            cap = enough * eighths // 8
            daemon = self.launch_daemon(
                OPEN, prepare=lambda cap=cap: resource.setrlimit(resource.RLIMIT_AS, (cap, cap))
            )
            eventually(
                lambda: not daemon.running() or " started: " in daemon.text(), "it starts or ends"
            )
            if daemon.running():
                daemon.stop()
                outcomes.add("started")
                continue
            self.assertGreater(daemon.wait_exit(), 0, daemon.text())
            said = r"(?i)memory|allocate|failed to map|temporarily unavailable"
            self.assertRegex(daemon.text(), said, f"{eighths} eighths of {enough} bytes")
            outcomes.add("refused")
        self.assertIn("refused", outcomes)

    @unittest.skipIf(is_sanitized(), SHADOW)
    def test_too_little_for_more_backends(self):
        """Those who are there are served; who comes is refused, and told why; and when there is
        memory again, registered."""
        daemon = self.start_daemon(OPEN)
        self.serve(self.backend("echo"))
        cap = memory_bytes(daemon)
        resource.prlimit(daemon.pid, resource.RLIMIT_AS, (cap, resource.RLIM_INFINITY))
        refusal = self.register_until_refused()
        self.assertIn("memory", refusal.reason)
        for _ in range(20):
            self.assert_served(daemon.address)
        no_cap = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(daemon.pid, resource.RLIMIT_AS, no_cap)
        self.serve(self.backend("another"), b"well\r\n")
        self.assert_served(daemon.address, "another", b"well\r\n")

    def register_until_refused(self):
        for number in range(1000):
            names = [f"name-{number}-{i}-{'x' * 200}" for i in range(8)]
            try:
                self.backend(*names, window=16_384, lanes=64)
            except Refused as refused:
                self.assertEqual(refused.code, NO_ROOM)
                return refused
        self.fail("memory never ran out")

    def test_too_little_in_a_cgroup(self):
        """The kernel kills who exceeds it; what is needed at the start is nearly all that there is,
        so a cap a little above that is not met by serving."""
        group, limit = self.make_cgroup()
        daemon = self.start_daemon(ECHO)
        with open(f"/proc/{daemon.pid}/status", encoding="ascii") as status:
            used = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
        with open(os.path.join(group, "cgroup.procs"), "w", encoding="ascii") as file:
            file.write(str(daemon.pid))
        with open(os.path.join(group, limit), "w", encoding="ascii") as file:
            file.write(str(used * 1024 + 16 * MEBIBYTE))
        self.serve(self.backend("echo"))
        for _ in range(200):
            self.assert_served(daemon.address)
        daemon.stop()

    def make_cgroup(self):
        """A group of its own, and its file of the limit: of version 2, or of version 1."""
        places = [("/sys/fs/cgroup", "memory.max"),
                  ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")]
        for root, limit in places:
            try:
                group = tempfile.mkdtemp(prefix="tcpmux-test-", dir=root)
            except OSError:
                continue
            self.addCleanup(lambda at=group: eventually(lambda: self.removed(at), "it is empty"))
            if os.path.exists(os.path.join(group, limit)):
                return group, limit
        self.skipTest("no cgroup can be made here whose memory is limited")

    def removed(self, group):
        try:
            os.rmdir(group)
        except OSError:
            return not os.path.exists(group)
        return True


@on_both_engines
class Log(SystemTest):
    """Standard error cannot be written. There is no line to wait for, so the daemon listens at an
    address that the test chose."""

    def start_mute(self, log):
        self.address = ("127.0.0.1", free_port())
        daemon = self.launch_daemon(
            ECHO,
            listen=[f"127.0.0.1:{self.address[1]}"],
            prepare=lambda: os.dup2(log, 2),
        )
        self.serve(eventually(self.registered, "the daemon has started"))
        return daemon

    def registered(self):
        try:
            return self.backend("echo")
        except (FileNotFoundError, ConnectionRefusedError):
            return None

    def serves(self, daemon, refusals):
        for _ in range(refusals):
            exchange(self.address, b"unknown\r\n")
        for _ in range(20):
            self.assert_served(self.address)
        self.assertTrue(daemon.running())

    def end(self, daemon):
        daemon.signal(signal.SIGTERM)
        daemon.expect_exit()

    def test_a_disk_that_is_always_full(self):
        with open("/dev/full", "wb") as full:
            daemon = self.start_mute(full.fileno())
            self.serves(daemon, 50)
            self.end(daemon)

    def test_a_disk_that_is_full_for_a_while(self):
        """What could not be written is counted in the log when there is room again."""
        folder = self.mount_small_disk()
        path = os.path.join(folder, "log")
        filler = os.path.join(folder, "filler")
        with open(path, "ab", buffering=0) as log:
            daemon = self.start_mute(log.fileno())
            self.fill(filler)
            self.flood(300)  # the last page of the log has room for some more
            self.serves(daemon, 50)
            before = os.path.getsize(path)
            os.truncate(filler, 0)

            def said():
                daemon.signal(signal.SIGUSR1)
                with open(path, encoding="utf-8", errors="replace") as file:
                    return "lines of the log were lost" in file.read()

            eventually(said, "the log says how many lines are missing")
            self.assertGreater(os.path.getsize(path), before)
            self.end(daemon)

    def mount_small_disk(self):
        folder = os.path.join(self.directory, "disk")
        os.mkdir(folder)
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder],
            capture_output=True,
            text=True,
            check=False,
        )
        if mounted.returncode != 0:
            self.skipTest(f"no tmpfs can be mounted: {mounted.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", folder], check=True)
        return folder

    def fill(self, path):
        with open(path, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass

    def test_a_pipe_that_nobody_reads(self):
        """The log's thread waits in write(2), and nobody else does. When somebody reads again, the
        lines that had no place are counted."""
        reader, writer = os.pipe()
        log = os.fdopen(reader, encoding="utf-8", errors="replace")
        self.addCleanup(log.close)
        daemon = self.start_mute(writer)
        os.close(writer)
        self.flood()
        self.serves(daemon, 10)
        for line in log:
            if "lines of the log were lost" in line:
                break
        else:
            self.fail("the log ended, and does not say what is missing")
        rest = threading.Thread(target=log.read, daemon=True)
        rest.start()
        self.end(daemon)
        rest.join(PATIENCE_S)

    def test_the_end_does_not_wait_for_a_reader(self):
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        daemon = self.start_mute(writer)
        os.close(writer)
        self.flood()
        self.end(daemon)

    def flood(self, lines=9_000):
        """More lines, of about 100 bytes, than the queue (8,192) and a pipe (64 KiB) hold."""
        for _ in range(lines):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
                connection.connect(self.registry)  # waits while the backlog is full
                connection.send(b"junk")


@on_both_engines
class Path(SystemTest):
    def setUp(self):
        super().setUp()
        self.folder = os.path.join(self.directory, "run")
        self.registry = os.path.join(self.folder, "r.sock")
        self.daemon = self.start_daemon(ECHO)
        self.serve(self.backend("echo"))

    def assert_registers_again(self, since):
        """By itself, soon; who was there is not disturbed."""
        self.daemon.wait_for_line("was made again", since)
        eventually(lambda: os.path.exists(self.registry), "the path is there")
        backend = Backend(self.registry, "echo")
        service = self.serve(backend)
        self.assert_served(self.daemon.address)
        service.stop()
        backend.close()
        self.assert_served(self.daemon.address)

    def test_removed(self):
        for _ in range(3):
            since = self.daemon.mark()
            before = len(self.daemon.settled_descriptors())
            os.unlink(self.registry)
            self.assert_registers_again(since)
            eventually(lambda: len(self.daemon.descriptors()) == before, "no descriptor is left")

    def test_removed_with_its_folder(self):
        since = self.daemon.mark()
        os.rename(self.folder, self.folder + ".old")  # or else it is there again too soon
        shutil.rmtree(self.folder + ".old")
        self.assert_registers_again(since)
        self.assertTrue(os.path.exists(self.registry + ".lock"))
        second = self.launch_daemon(ECHO)
        self.assertGreater(second.wait_exit(), 0)
        self.assertRegex(second.text(), rf"\b{self.daemon.pid}\b")

    def test_a_folder_on_the_way_gets_another_name(self):
        """Nothing happens to the file itself; it is looked for every 5 seconds."""
        since = self.daemon.mark()
        os.rename(self.folder, self.folder + ".old")
        self.assert_registers_again(since)

    def test_a_dead_socket_in_its_place(self):
        since = self.daemon.mark()
        elsewhere = os.path.join(self.folder, "other")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
            other.bind(elsewhere)
        os.rename(elsewhere, self.registry)
        self.assert_registers_again(since)

    def test_somebody_else_in_its_place(self):
        """It is left alone, and said; when it goes, the path is ours again."""
        elsewhere = os.path.join(self.folder, "other")
        for kind in ["a file", "a listener"]:
            with self.subTest(kind), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
                if kind == "a file":
                    with open(elsewhere, "w", encoding="ascii") as file:
                        file.write("precious")
                else:
                    other.bind(elsewhere)
                    other.listen()
                there = os.stat(elsewhere).st_ino
                since = self.daemon.mark()
                os.rename(elsewhere, self.registry)
                line = self.daemon.wait_for_line("no backend can register", since)
                self.assertIn(self.registry, line)
                for _ in range(10):
                    self.assert_served(self.daemon.address)
                self.assertEqual(os.stat(self.registry).st_ino, there)
                os.unlink(self.registry)
                self.assert_registers_again(since)

    def test_moved_away_and_back(self):
        since = self.daemon.mark()
        os.mkdir(os.path.join(self.directory, "blocked"))
        os.rename(self.registry, self.registry + ".old")
        self.assert_registers_again(since)

    def test_the_end_removes_nothing_of_others(self):
        since = self.daemon.mark()
        elsewhere = os.path.join(self.folder, "other")
        with open(elsewhere, "w", encoding="ascii") as file:
            file.write("precious")
        os.rename(elsewhere, self.registry)
        self.daemon.wait_for_line("no backend can register", since)
        self.daemon.stop()
        with open(self.registry, encoding="ascii") as file:
            self.assertEqual(file.read(), "precious")


@on_both_engines
class Taken(SystemTest):
    def test_a_socket_on_which_somebody_listens_is_left_alone(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
            other.bind(self.registry)
            other.listen()
            daemon = self.launch_daemon(ECHO)
            self.assertGreater(daemon.wait_exit(), 0)
            self.assertIn(self.registry, daemon.text())
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.connect(self.registry)


if __name__ == "__main__":
    main()
