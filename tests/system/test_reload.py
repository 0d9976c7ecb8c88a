"""Guards the reload: what the file says now holds for who comes from now on, nobody who is there
notices, and a file that is wrong changes nothing."""

import os
import random
import signal
import socket

from control import ask, control_path_beside
from harness import Client, SystemTest, eventually, exchange, main, on_both_engines

ECHO = {"services": {"echo": {}}}
LISTEN = {"listen": ["127.0.0.1:0"]}


def port_that_nobody_has():
    """On any address, and not one that the kernel gives to clients."""
    while True:
        port = random.randrange(15_000, 30_000)
        try:
            socket.create_server(("0.0.0.0", port)).close()
            return port
        except OSError:
            pass


class ReloadTest(SystemTest):
    def start(self, config=None, **options):
        self.daemon = self.start_daemon(config or ECHO, **options)
        return self.daemon

    def ask(self, command):
        return ask(control_path_beside(self.registry), command)

    def reload(self, config):
        """Takes a new file in, and gives the remarks."""
        self.write_config(config)
        reply = self.ask("reload")
        self.assertTrue(reply["ok"], reply)
        return reply["remarks"]

    def listening(self):
        texts = self.ask("status")["listening"]
        return [(text.rsplit(":", 1)[0], int(text.rsplit(":", 1)[1])) for text in texts]

    def is_closed(self, address):
        try:
            Client(address).close()
        except (ConnectionRefusedError, ConnectionResetError):
            return True
        return False


@on_both_engines
class Services(ReloadTest):
    def test_added_changed_removed(self):
        self.start({"services": {"old": {}, "same": {"message": "one"}}})
        self.serve(self.backend("old", "same", window=64))
        self.assert_served(self.daemon.address, "old")
        self.reload({"services": {"new": {}, "same": {"message": "two"}}})
        self.assert_refused(self.daemon.address, b"old\r\n", b"-unknown")
        self.assertTrue(exchange(self.daemon.address, b"same\r\n")[0].startswith(b"+two\r\n"))
        self.assert_refused(self.daemon.address, b"new\r\n", b"-unavailable")
        self.serve(self.backend("new"))
        self.assert_served(self.daemon.address, "new")
        self.assertEqual(exchange(self.daemon.address, b"help\r\n")[0], b"new\r\nsame\r\n")
        self.daemon.wait_for_line("serves 'old', which is no longer configured")

    def test_a_removed_one_comes_back(self):
        """The backend that serves it has stayed registered."""
        self.start({"services": {"one": {}, "two": {}}})
        self.serve(self.backend("one", window=64))
        self.reload({"services": {"two": {}}})
        self.assert_refused(self.daemon.address, b"one\r\n", b"-unknown")
        self.reload({"services": {"two": {}, "one": {}}})
        self.assert_served(self.daemon.address, "one")

    def test_many_more_than_at_first(self):
        """Shards get places for them."""
        self.start()
        names = {f"service{number}": {} for number in range(3000)}
        self.reload({"services": {**names, "echo": {}}})
        self.serve(self.backend("service2999", window=64))
        self.assert_served(self.daemon.address, "service2999")

    def test_open_registry(self):
        self.start()
        self.reload({"registry": {"open": True}, **ECHO})
        self.serve(self.backend("anything", window=64))
        self.assert_served(self.daemon.address, "anything")
        self.reload(ECHO)
        self.assert_refused(self.daemon.address, b"anything\r\n", b"-unknown")

    def test_access(self):
        self.start()
        self.serve(self.backend("echo", window=64))
        self.reload({"services": {"echo": {"allow": ["127.0.0.2"]}}})
        self.assert_refused(self.daemon.address, b"echo\r\n", b"-denied")
        self.assert_served(self.daemon.address, source="127.0.0.2")
        self.reload({"services": {"echo": {"deny": ["127.0.0.2"]}}})
        self.assert_served(self.daemon.address)
        self.assert_refused(self.daemon.address, b"echo\r\n", b"-denied", source="127.0.0.2")

    def test_help(self):
        self.start()
        self.assertEqual(exchange(self.daemon.address, b"help\r\n")[0], b"echo\r\n")
        self.reload({"help": {"enabled": False}, **ECHO})
        self.assert_refused(self.daemon.address, b"help\r\n", b"-unknown")


@on_both_engines
class Connections(ReloadTest):
    def test_none_notices(self):
        """Half a line, a place in a lane, a session, a registration: all go on."""
        self.start({"handshake": {"deadline_ms": 60_000}, **ECHO})
        backend = self.backend("echo", window=64)
        half, waits = self.connect(self.daemon.address), self.connect(self.daemon.address)
        half.send_and_wait_until_read(b"ec")
        self.assertEqual(waits.ask("echo"), b"+\r\n")
        self.reload({"handshake": {"deadline_ms": 50_000}, "services": {"a": {}, "echo": {}}})
        half.send(b"ho\r\n")
        self.assertEqual(half.read_line(), b"+\r\n")
        handed = backend.receive_all(2)
        self.assertEqual(
            {one.socket.getpeername()[1] for one in handed}, {half.name[1], waits.name[1]}
        )

    def test_a_service_that_goes_in_the_middle_of_its_name(self):
        self.start({"handshake": {"deadline_ms": 60_000}, **ECHO})
        self.serve(self.backend("echo"))
        client = self.connect(self.daemon.address)
        client.send_and_wait_until_read(b"ec")
        self.reload({"services": {"other": {}}})
        client.send(b"ho\r\n")
        self.assertRegex(client.read_line(), rb"\A-unknown")


@on_both_engines
class Limits(ReloadTest):
    def test_the_deadline(self):
        self.start({"handshake": {"deadline_ms": 60_000, "defer_accept": False}, **ECHO})
        self.reload({"handshake": {"deadline_ms": 100, "defer_accept": False}, **ECHO})
        client = self.connect(self.daemon.address)
        self.assertEqual(client.read_to_end()[0], b"")
        self.daemon.wait_counter("timed_out", 1)

    def test_a_shorter_line_in_the_middle_of_one(self):
        self.start({"handshake": {"line_bytes_max": 512, "deadline_ms": 60_000}, **ECHO})
        client = self.connect(self.daemon.address)
        client.send_and_wait_until_read(b"x" * 100)
        self.reload({"handshake": {"line_bytes_max": 16, "deadline_ms": 60_000}, **ECHO})
        client.send(b"y")
        self.assertRegex(client.read_line(), rb"\A-too long")

    def test_more_connections_than_at_first_need_an_upgrade(self):
        self.start({"handshake": {"connections_per_shard_max": 100}, **ECHO})
        remarks = self.reload({"handshake": {"connections_per_shard_max": 200}, **ECHO})
        self.assertEqual(len(remarks), 1)
        self.assertRegex(remarks[0], "connections_per_shard_max stays 100")

    def test_what_needs_more_than_a_reload(self):
        self.start({"shards": 2, **ECHO}, shards=None)
        remarks = self.reload({"shards": 1, **ECHO})
        self.assertEqual(remarks, ["shards changes with an upgrade (tcpmux ctl upgrade)"])
        self.assertEqual(self.ask("status")["shards"], 2)


@on_both_engines
class Addresses(ReloadTest):
    def test_added_and_removed(self):
        self.start({"listen": ["127.0.0.1:0", "127.0.0.2:0"], **ECHO}, listen=())
        self.serve(self.backend("echo", window=64))
        kept, removed = self.daemon.addresses
        self.reload({"listen": ["127.0.0.1:0", "127.0.0.3:0"], **ECHO})
        now = self.listening()
        self.assertEqual(now[0], kept)
        eventually(lambda: self.is_closed(removed), "nobody listens there any more")
        for address in now:
            for _ in range(10):
                self.assert_served(address)

    def test_from_one_address_to_all_on_the_same_port(self):
        port = port_that_nobody_has()
        self.start({"listen": [f"127.0.0.1:{port}"], **ECHO}, listen=())
        self.serve(self.backend("echo", window=64))
        self.reload({"listen": [f"0.0.0.0:{port}"], **ECHO})
        self.assertEqual(self.listening(), [("0.0.0.0", port)])
        for _ in range(20):
            self.assert_served(("127.0.0.1", port))
            self.assert_served(("127.0.0.7", port))

    def test_again_and_again(self):
        """No descriptor is left behind."""
        self.start({**LISTEN, **ECHO}, listen=())
        before = len(self.daemon.settled_descriptors())
        for number in range(100):
            self.reload({"listen": ["127.0.0.1:0", f"127.0.0.{2 + number % 2}:0"], **ECHO})
        self.reload({**LISTEN, **ECHO})
        eventually(lambda: len(self.daemon.descriptors()) == before, "all others are closed")

    def test_one_that_another_has(self):
        self.start({**LISTEN, **ECHO}, listen=())
        self.serve(self.backend("echo", window=64))
        before = self.listening()
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            self.write_config({"listen": ["127.0.0.4:0", f"127.0.0.1:{port}"], "services": {}})
            reply = self.ask("reload")
        self.assertFalse(reply["ok"])
        self.assertRegex(reply["error"], "another program listens there")
        self.assertEqual(self.listening(), before)
        self.assert_served(self.daemon.address)


@on_both_engines
class Wrong(ReloadTest):
    def test_a_bad_file_changes_nothing(self):
        self.start()
        self.serve(self.backend("echo", window=64))
        path = self.write_config('[handshake]\ndeadline_ms = "soon"\n[services]\nbad = 7\n')
        reply = self.ask("reload")
        self.assertFalse(reply["ok"])
        for where in ["2:15: handshake.deadline_ms", "4:7: services.bad"]:
            self.assertIn(f"{path}:{where}", reply["error"])
            self.daemon.wait_for_text(where)
        self.daemon.wait_for_line("not reloaded, the old configuration stays")
        self.assert_served(self.daemon.address)

    def test_no_file(self):
        self.start()
        os.unlink(os.path.join(self.directory, "tcpmuxd.toml"))
        self.assertRegex(self.ask("reload")["error"], "cannot read the configuration file")

    def test_by_signal(self):
        self.start()
        since = self.daemon.mark()
        self.write_config({"services": {"echo": {}, "new": {}}})
        self.daemon.signal(signal.SIGHUP)
        self.daemon.wait_for_line("reloaded: 2 services", since)
        self.assert_refused(self.daemon.address, b"new\r\n", b"-unavailable")
        self.write_config("services = 1\n")
        self.daemon.signal(signal.SIGHUP)
        self.daemon.wait_for_line("not reloaded", since)
        self.assert_refused(self.daemon.address, b"new\r\n", b"-unavailable")

    def test_the_log_level(self):
        self.start()
        self.assert_refused(self.daemon.address, b"nobody\r\n", b"-unknown")
        self.daemon.wait_for_line("refused 127.0.0.1")
        self.reload({"log_level": "error", **ECHO})
        since = self.daemon.mark()
        self.assert_refused(self.daemon.address, b"nobody\r\n", b"-unknown")
        self.reload({"log_level": "info", **ECHO})
        self.daemon.wait_for_line("reloaded", since)
        self.assertNotIn("refused 127.0.0.1", self.daemon.text(since))


if __name__ == "__main__":
    main()
