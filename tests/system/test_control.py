"""Guards tcpmux ctl and the control socket: what they say is true, they obey their owner alone, and
whatever is done to the socket the daemon goes on serving."""

import os
import random
import re
import socket
import unittest

from control import ControlClient, as_nobody, control_path_beside, ctl
from daemon import daemon_command
from generations import Generations
from harness import SystemTest, eventually, main

ECHO = {"services": {"echo": {}, "whoami": {}}}
CONNECTIONS_MAX = 16
SLOW = {"handshake": {"deadline_ms": 600_000, "defer_accept": False}, **ECHO}


class ControlTest(SystemTest):
    def setUp(self):
        super().setUp()
        self.control = control_path_beside(self.registry)

    def ctl(self, *words, **options):
        return ctl(*words, "--registry", self.registry, **options)

    def status(self):
        said = self.ctl("status", "--json")
        self.assertEqual((said.code, said.err), (0, ""))
        return said.json

    def open_control(self):
        client = ControlClient(self.control)
        self.addCleanup(client.close)
        return client

    def assert_serves(self, daemon):
        """Clients of the port are served, and the control socket answers."""
        self.assert_served(daemon.address)
        self.assertEqual(self.status()["state"], "serving")


class Status(ControlTest):
    def test_says_what_is(self):
        daemon = self.start_daemon(ECHO, shards=2)
        before = self.status()
        self.assertEqual(before["ok"], True)
        self.assertEqual(before["pid"], daemon.pid)
        self.assertEqual(before["state"], "serving")
        self.assertEqual(before["engine"], daemon.engine)
        self.assertEqual(before["shards"], 2)
        self.assertEqual(before["listening"], ["%s:%d" % daemon.address])
        self.assertEqual(before["registry"], self.registry)
        self.assertEqual(before["control"], self.control)
        self.assertEqual(before["configuration"], os.path.join(self.directory, "tcpmuxd.toml"))
        self.assertEqual(before["backends"], [])
        self.assertEqual(before["counters"]["accepted"], 0)
        self.assertGreaterEqual(before["uptime_seconds"], 0)

    def test_counts(self):
        daemon = self.start_daemon(ECHO, shards=2)
        self.serve(self.backend("echo"))
        for _ in range(20):
            self.assert_served(daemon.address)
        for _ in range(3):
            self.assert_refused(daemon.address, b"nobody\r\n", b"-unknown")
        eventually(
            lambda: self.status()["counters"]["refused"]["unknown"] == 3, "refusals are counted"
        )
        status = self.status()
        self.assertEqual(status["counters"]["accepted"], 23)
        self.assertEqual(status["counters"]["handed_off"], 20)
        self.assertEqual(sum(status["counters"]["refused"].values()), 3)
        shards = status["counters_by_shard"]
        self.assertEqual(len(shards), 2)
        self.assertEqual(sum(shard["accepted"] for shard in shards), 23)
        logged = daemon.counters()
        for name, value in status["counters"].items():
            if name != "refused":
                self.assertEqual(logged[name], value, name)

    def test_lists_backends(self):
        self.start_daemon(ECHO, shards=2)
        backend = self.backend("echo", "whoami", window=7, batch=3)
        other = self.backend("ECHO", lanes=1)
        first, second = self.status()["backends"]
        self.assertEqual(first["names"], ["echo", "whoami"])
        self.assertEqual((first["lanes"], first["window"], first["batch"]), (2, 7, 3))
        self.assertEqual((first["pid"], first["uid"]), (os.getpid(), os.getuid()))
        self.assertEqual(first["draining"], False)
        self.assertEqual((second["names"], second["lanes"]), (["echo"], 1))
        self.assertGreater(second["id"], first["id"])
        backend.drain()
        eventually(lambda: self.status()["backends"][0]["draining"], "it drains")
        other.close()
        eventually(lambda: len(self.status()["backends"]) == 1, "it has gone")

    def test_descriptors(self):
        daemon = self.start_daemon(ECHO)
        used = self.status()["descriptors"]["used"]
        self.assertEqual(used, len(daemon.settled_descriptors()) + 1)  # the asker's own
        backend = self.backend("echo", lanes=2)
        self.assertEqual(self.status()["descriptors"]["used"], used + 1 + 2 * len(backend.lanes))

    def test_a_page_for_a_person(self):
        daemon = self.start_daemon(ECHO)
        self.backend("echo", "whoami")
        self.assert_refused(daemon.address, b"nobody\r\n", b"-unknown")
        eventually(lambda: self.status()["counters"]["accepted"] == 1, "it is counted")
        said = self.ctl("status")
        self.assertEqual((said.code, said.err), (0, ""))
        self.assertRegex(said.out, rf"(?m)^tcpmuxd \S+, pid {daemon.pid}: serving for \d+ s$")
        self.assertRegex(said.out, r"(?m)^  listening on +%s:%d$" % daemon.address)
        self.assertRegex(said.out, rf"(?m)^ +1 +{os.getpid()} +\S+ +echo, whoami +2 .* serving$")
        self.assertRegex(said.out, r"(?m)^  refused: unknown +1 +[01] +[01]$")

    def test_under_load(self):
        """Asked again and again while connections come and go, it answers each time."""
        daemon = self.start_daemon(ECHO)
        self.demo("echo").wait_for_line("serving")
        client = self.open_control()
        last = 0
        for _ in range(200):
            connection = self.connect(daemon.address)
            self.assertEqual(connection.ask("echo")[:1], b"+")
            connection.close()
            accepted = client.ask("status")["counters"]["accepted"]
            self.assertGreater(accepted, last)
            last = accepted


class Drain(ControlTest):
    def test_ends_the_daemon_well(self):
        daemon = self.start_daemon(ECHO)
        said = self.ctl("drain")
        self.assertEqual((said.code, said.err), (0, ""))
        self.assertIn("draining", said.out)
        daemon.expect_exit(0)
        self.assertFalse(os.path.exists(self.control))
        self.assertIn("shutting down (tcpmux ctl drain)", daemon.text())

    def test_a_handshake_under_way_is_finished(self):
        daemon = self.start_daemon(SLOW)
        self.serve(self.backend("echo"))
        client = self.connect(daemon.address)
        client.send(b"ec")
        eventually(lambda: self.status()["counters"]["accepted"] == 1, "it is accepted")
        self.assertEqual(self.ctl("drain", "--json").json, {"ok": True, "state": "draining"})
        self.assertEqual(self.status()["state"], "draining")
        self.assertEqual(self.ctl("drain").code, 0, "again is no more than once")
        self.assertTrue(daemon.running())
        client.send(b"ho\r\n")
        self.assertEqual(client.read_line(), b"+\r\n")
        self.assertEqual(client.read_line(), b"served\r\n")
        daemon.expect_exit(0)

    def test_waits_for_the_end(self):
        daemon = self.start_daemon(ECHO)
        self.assertEqual(self.ctl("drain", "--wait").code, 0)
        self.assertIsNotNone(daemon.process.poll(), "it has ended when we are told so")
        daemon.expect_exit(0)


class Changes(ControlTest):
    """What tcpmux ctl prints; what a reload and an upgrade do has tests of its own."""

    def test_a_reload(self):
        self.start_daemon(ECHO)
        services = {"echo": {}, "two": {}, "three": {}}
        self.write_config({"control": {"path": "/elsewhere"}, "services": services})
        said = self.ctl("reload")
        self.assertEqual((said.code, said.err), (0, ""))
        self.assertEqual(
            said.out,
            "reloaded: 3 services\ncontrol.path changes with an upgrade (tcpmux ctl upgrade)\n",
        )

    def test_a_reload_of_a_bad_file(self):
        daemon = self.start_daemon(ECHO)
        path = self.write_config("shard = 3\nengine = 'kqueue'\n")
        said = self.ctl("reload")
        self.assertEqual((said.code, said.out), (1, ""))
        first, second = said.err.splitlines()
        self.assertTrue(first.startswith(f"{path}:1:1: unknown key 'shard'"), first)
        self.assertTrue(second.startswith(f"{path}:2:10: engine must be"), second)
        self.serve(self.backend("echo"))
        self.assert_serves(daemon)

    def test_an_upgrade(self):
        command = daemon_command(
            self.write_config(ECHO),
            engine=self.engine,
            listen=["127.0.0.1:0"],
            registry=self.registry,
            shards=2,
            flags=[],
        )
        daemon = self.keep(Generations(command, self.registry)).wait_started()
        self.addCleanup(daemon.stop)
        said = self.ctl("upgrade")
        self.assertEqual((said.code, said.err), (0, ""))
        match = re.fullmatch(r"upgraded: pid (\d+) -> (\d+) \(\d+ ms\)\n", said.out)
        self.assertTrue(match, said.out)
        self.assertEqual(int(match[1]), daemon.pid)
        daemon.pids.append(int(match[2]))
        eventually(lambda: daemon.status()["pid"] == daemon.current, "the new one answers")


class WhoAndWhere(ControlTest):
    @unittest.skipUnless(os.geteuid() == 0, "only root can be somebody else")
    def test_other_users_are_refused(self):
        daemon = self.start_daemon(ECHO)
        self.serve(self.backend("echo"))
        os.chmod(self.directory, 0o755)
        self.assertEqual(os.stat(self.control).st_mode & 0o777, 0o600)
        said = self.ctl("drain", prepare=as_nobody)
        self.assertEqual((said.code, said.out), (1, ""))
        self.assertIn("Permission denied; only root and the user", said.err)
        os.chmod(self.control, 0o666)  # and neither when somebody has opened the file to them
        said = self.ctl("drain", prepare=as_nobody)
        self.assertEqual((said.code, said.out), (1, ""))
        self.assertIn("uid 65534 may not control this daemon", said.err)
        said = self.ctl("drain", "--json", prepare=as_nobody)
        self.assertEqual((said.code, said.json["ok"]), (1, False))
        self.assert_serves(daemon)

    def test_no_daemon(self):
        said = self.ctl("status")
        self.assertEqual((said.code, said.out), (3, ""))
        self.assertIn(f"no tcpmuxd listens at {self.control}", said.err)
        self.assertIn("is it running?", said.err)

    def test_what_a_crash_left(self):
        self.start_daemon(ECHO).crash()
        self.assertTrue(os.path.exists(self.control))
        self.assertEqual(self.ctl("status").code, 3)
        daemon = self.start_daemon(ECHO)
        self.assertEqual(self.status()["pid"], daemon.pid)

    def test_a_path_of_its_own(self):
        path = os.path.join(self.directory, "run", "own")
        config = {"control": {"path": "/nowhere"}, **ECHO}
        daemon = self.start_daemon(config, flags=["--control", path])
        said = ctl("status", "--json", "--control", path)
        self.assertEqual(said.json["pid"], daemon.pid)
        self.assertEqual(said.json["control"], path)
        self.assertFalse(os.path.exists(self.control))

    def test_none(self):
        daemon = self.start_daemon({"control": {"path": ""}, **ECHO})
        self.assertFalse(os.path.exists(self.control))
        self.assertEqual(self.ctl("status").code, 3)
        self.serve(self.backend("echo"))
        self.assert_served(daemon.address)

    def test_a_file_in_the_way(self):
        with open(self.control, "w", encoding="ascii") as file:
            file.write("precious")
        daemon = self.launch_daemon(ECHO)
        daemon.expect_exit(1)
        self.assertIn(f"{self.control} exists and is not a socket (control.path", daemon.text())
        with open(self.control, encoding="ascii") as file:
            self.assertEqual(file.read(), "precious")

    def test_two_daemons_do_not_share_one(self):
        first = self.start_daemon(ECHO)
        second = self.launch_daemon(
            ECHO,
            registry=os.path.join(self.directory, "second.sock"),
            flags=["--control", self.control],
        )
        second.expect_exit(1)
        self.assertIn(f"another process (pid {first.pid}) listens", second.text())
        self.assertEqual(self.status()["pid"], first.pid)


class Abuse(ControlTest):
    def test_garbage(self):
        daemon = self.start_daemon(ECHO)
        self.serve(self.backend("echo"))
        chance = random.Random(1078)
        for length in (1, 10, 1000, 20_000):
            self.assert_refused_whole(chance.randbytes(length))  # lines of all lengths
        for length in (1000, 70_000, 300_000):
            self.assert_refused_whole(chance.randbytes(length).replace(b"\n", b""))
        self.assert_serves(daemon)

    def assert_refused_whole(self, data):
        client = self.open_control()
        try:
            client.send(data)
            client.socket.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was shut out before it had said all
        while (reply := client.reply()) is not None:
            self.assertEqual(reply["ok"], False)
        client.close()

    def test_every_mistake_has_an_answer(self):
        self.start_daemon(ECHO)
        client = self.open_control()
        for line in (b"", b"status", b"{}", b'{"command":1}', b'{"command":"stop"}', b"\xff\0"):
            client.send(line + b"\n")
            reply = client.reply()
            self.assertEqual(reply["ok"], False, line)
            self.assertTrue(reply["error"], line)
        self.assertEqual(client.ask("status")["ok"], True)

    def test_many_connections(self):
        daemon = self.start_daemon(ECHO)
        self.serve(self.backend("echo"))
        before = len(daemon.settled_descriptors())
        clients = [self.open_control() for _ in range(100)]
        refused = []
        for client in clients[CONNECTIONS_MAX:]:
            refused.append(client.reply())
        self.assertEqual([one["ok"] for one in refused], [False] * len(refused))
        self.assertIn("16 connections", refused[0]["error"])
        self.assertEqual(len(daemon.settled_descriptors()), before + CONNECTIONS_MAX)
        self.assert_served(daemon.address)
        self.assertEqual(self.ctl("status").code, 1)
        for client in clients:
            client.close()
        eventually(lambda: self.ctl("status").code == 0, "there is room again")
        eventually(lambda: len(daemon.settled_descriptors()) == before, "none is left open")

    def test_those_that_leave_at_once(self):
        daemon = self.start_daemon(ECHO)
        self.serve(self.backend("echo"))
        before = len(daemon.settled_descriptors())
        for i in range(300):
            client = ControlClient(self.control)
            try:
                client.send([b'{"command":"status"}\n', b'{"comm', b""][i % 3])
            except (BrokenPipeError, ConnectionResetError):
                pass  # there were too many at this moment
            client.close()
        eventually(lambda: len(daemon.settled_descriptors()) == before, "none is left open")
        self.assert_serves(daemon)


if __name__ == "__main__":
    main()
