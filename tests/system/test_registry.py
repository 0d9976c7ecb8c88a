"""Guards the registry: who may register what, that every malformed message ends that registration
alone and says why, that what is unknown is ignored, and that nobody may dawdle."""

import os
import pwd
import socket
import unittest

from backend import (
    BAD_NAME,
    DRAIN,
    GOODBYE,
    MALFORMED,
    NOT_ALLOWED,
    RAW_SEQPACKET,
    RAW_STREAM,
    REFUSE,
    REGISTER,
    UNKNOWN_SERVICE,
    WRONG_VERSION,
    Ended,
    Refused,
    connect_registry,
    header,
    receive_message,
    register,
    register_message,
)
from harness import Ending, SystemTest, exchange, main, on_both_engines

# Nothing is thought stalled, and what no backend is left for is soon given up.
HANDOFF = {"handoff": {"stall_ms": 60_000, "deadline_ms": 500}}
ECHO = {"services": {"echo": {}, "other": {}}, **HANDOFF}

MALFORMED_MESSAGES = {
    "no magic": register_message(["echo"]).replace(b"TMUX", b"XUMT"),
    "less than a header": b"TMUX\x01\x01",
    "one byte": b"T",
    "a header alone": header(REGISTER, 1),
    "fields cut short": register_message([])[:19],
    "no names": register_message([]),
    "65 names": register_message([f"name{number}" for number in range(65)]),
    "fewer names than it says": register_message(["echo"], count=2),
    "a name that runs past the end": register_message(["echo"])[:-1],
    "an empty name": register_message([""]),
    "batch 0": register_message(["echo"], batch=0),
    "batch 65": register_message(["echo"], batch=65),
    "65 lanes": register_message(["echo"], lanes=65),
    "lane kind 3": register_message(["echo"], kind=3),
    "raw with two names": register_message(["echo", "other"], kind=RAW_SEQPACKET),
    "raw with batch 2": register_message(["echo"], batch=2, kind=RAW_STREAM),
}


class RegistryTest(SystemTest):
    def registry_connection(self):
        connection = connect_registry(self.registry)
        self.addCleanup(connection.close)
        return connection

    def assert_refused_by_registry(self, connection, code, version=1):
        """A Refuse with the code comes, then the end. Gives the reason."""
        message = receive_message(connection)
        self.assertEqual((message.type, message.count), (REFUSE, code), message)
        self.assertEqual(message.version, version)
        reason = message.body.decode()
        self.assertTrue(reason and "\n" not in reason, reason)
        with self.assertRaises(Ended):
            receive_message(connection)
        return reason

    def assert_not_registered(self, *names, code, **fields):
        with self.assertRaises(Refused) as caught:
            self.backend(*names, **fields)
        self.assertEqual(caught.exception.code, code, caught.exception)
        return caught.exception.reason


@on_both_engines
class Messages(RegistryTest):
    def setUp(self):
        super().setUp()
        self.daemon = self.start_daemon(ECHO)
        self.serve(self.backend("echo"))

    def test_malformed_messages_end_that_registration_alone(self):
        for what, message in MALFORMED_MESSAGES.items():
            with self.subTest(what):
                connection = self.registry_connection()
                connection.send(message)
                self.assert_refused_by_registry(connection, MALFORMED)
                self.assert_served(self.daemon.address)

    def test_the_reason_is_logged(self):
        connection = self.registry_connection()
        connection.send(MALFORMED_MESSAGES["batch 65"])
        reason = self.assert_refused_by_registry(connection, MALFORMED)
        self.assertIn("65", reason)
        line = self.daemon.wait_for_text(rf"^.*\b{os.getpid()}\b.*65.*$")[0]
        self.assertIn("batch", line)

    def test_registering_twice(self):
        """The second Register is malformed: it ends the registration, and what waits in its lanes
        goes to the other backend."""
        connection = self.registry_connection()
        lanes, _, _ = register(connection, "other")
        for lane in lanes:
            self.addCleanup(lane.close)
        client = self.connect(self.daemon.address)
        self.assertEqual(client.ask("other"), b"+\r\n")
        self.serve(self.backend("other"), b"from the other\r\n")
        connection.send(register_message(["other"]))
        self.assert_refused_by_registry(connection, MALFORMED)
        self.assertEqual(client.read_to_end(), (b"from the other\r\n", Ending.FIN))

    def test_malformed_behind_a_register(self):
        for bad in [b"TMUX\x01", b"junk" * 100]:
            with self.subTest(bad=bad[:8]):
                backend = self.backend("other")
                backend.registry.send(bad)
                self.assert_refused_by_registry(backend.registry, MALFORMED)
                self.assert_served(self.daemon.address)

    def test_another_version(self):
        for version in [0, 2, 255]:
            with self.subTest(version=version):
                connection = self.registry_connection()
                connection.send(register_message(["echo"], version=version))
                self.assert_refused_by_registry(connection, WRONG_VERSION)

    def test_unknown_messages_are_ignored(self):
        """Before a Register and behind it, with a body and with descriptors, which are closed."""
        ours, theirs = os.pipe()
        self.addCleanup(os.close, ours)
        connection = self.registry_connection()
        connection.send(header(99, 3) + b"what is this")
        socket.send_fds(connection, [header(200) + b"!"], [theirs])
        lanes, _, _ = register(connection, "other")
        for lane in lanes:
            self.addCleanup(lane.close)
        connection.send(header(8, 65535))
        socket.send_fds(connection, [header(250)], [theirs] * 5)
        os.close(theirs)
        os.set_blocking(ours, True)
        self.assertEqual(os.read(ours, 1), b"", "the daemon has closed every copy of the pipe")
        self.assertEqual(self.connect(self.daemon.address).ask("other"), b"+\r\n")

    def test_descriptors_with_a_register_are_closed(self):
        ours, theirs = os.pipe()
        self.addCleanup(os.close, ours)
        connection = self.registry_connection()
        socket.send_fds(connection, [register_message(["other"])], [theirs] * 3)
        os.close(theirs)
        receive_message(connection)
        self.assertEqual(os.read(ours, 1), b"")

    def test_bytes_behind_the_last_field_are_ignored(self):
        connection = self.registry_connection()
        connection.send(register_message(["other"]) + b"of a later version")
        lanes = receive_message(connection)
        self.assertEqual(lanes.count, len(lanes.descriptors))
        for descriptor in lanes.descriptors:
            os.close(descriptor)

    def test_leaving_without_a_register(self):
        for message in [None, header(DRAIN), header(GOODBYE)]:
            connection = connect_registry(self.registry)
            if message:
                connection.send(message)
            connection.close()
        self.assert_served(self.daemon.address)

    def test_no_descriptor_is_left_by_registrations(self):
        before = self.daemon.settled_descriptors()
        for _ in range(50):
            self.backend("other", "echo").close()
            connection = self.registry_connection()
            connection.send(b"junk")
            self.assert_refused_by_registry(connection, MALFORMED)
        self.daemon.wait_for_descriptors(before)


@on_both_engines
class Names(RegistryTest):
    def test_names_that_nobody_configured(self):
        self.start_daemon(ECHO)
        reason = self.assert_not_registered("stranger", code=UNKNOWN_SERVICE)
        self.assertIn("stranger", reason)
        self.assert_not_registered("echo", "stranger", code=UNKNOWN_SERVICE)

    def test_a_refused_registration_serves_none_of_its_names(self):
        daemon = self.start_daemon(ECHO)
        self.assert_not_registered("echo", "stranger", code=UNKNOWN_SERVICE)
        self.assert_refused(daemon.address, b"echo\r\n", b"-unavailable")

    def test_an_open_registry(self):
        daemon = self.start_daemon({"registry": {"open": True}, **ECHO})
        self.assert_refused(daemon.address, b"stranger\r\n", b"-unknown")
        self.serve(self.backend("Stranger"))
        self.assert_served(daemon.address, "sTRANGER")
        names = exchange(daemon.address, b"HELP\r\n")
        self.assertEqual(names, (b"echo\r\nother\r\nStranger\r\n", Ending.FIN))

    def test_names_that_cannot_be(self):
        for is_open in [False, True]:
            path = os.path.join(self.directory, f"open{int(is_open)}.sock")
            self.start_daemon({"registry": {"open": is_open}, **ECHO}, registry=path)
            for name in ["two words", "help", "HELP", b"\xff\xfe", b"a\0b", "tab\t"]:
                with self.subTest(name=name, is_open=is_open):
                    self.assert_not_registered(name, code=BAD_NAME, registry=path)


@unittest.skipIf(os.getuid() != 0, "only root can become another user")
class Users(RegistryTest):
    """The registry does not depend on the engine."""

    NOBODY = pwd.getpwnam("nobody")

    def as_nobody(self, *names):
        """Registers as the user nobody; Refused where it may not."""
        os.chmod(self.directory, 0o755)
        os.setegid(self.NOBODY.pw_gid)
        os.seteuid(self.NOBODY.pw_uid)
        try:
            connection = connect_registry(self.registry)
        finally:
            os.seteuid(0)
            os.setegid(0)
        self.addCleanup(connection.close)
        lanes, _, _ = register(connection, *names)
        for lane in lanes:
            lane.close()

    def assert_nobody_refused(self, *names):
        with self.assertRaises(Refused) as caught:
            self.as_nobody(*names)
        self.assertEqual(caught.exception.code, NOT_ALLOWED, caught.exception)
        return caught.exception.reason

    def test_by_default_root_and_our_own_user_alone(self):
        daemon = self.start_daemon(ECHO)
        reason = self.assert_nobody_refused("echo")
        self.assertIn("registry.users", reason)
        self.assertIn(str(self.NOBODY.pw_uid), reason + daemon.wait_for_line("registry.users"))
        self.assert_refused(daemon.address, b"echo\r\n", b"-unavailable")
        self.backend("echo")

    def test_registry_users(self):
        self.start_daemon({"registry": {"users": ["nobody"]}, **ECHO})
        self.as_nobody("echo", "other")
        self.backend("echo")

    def test_registry_users_by_number(self):
        self.start_daemon({"registry": {"users": [self.NOBODY.pw_uid]}, **ECHO})
        self.as_nobody("echo")

    def test_registry_groups(self):
        self.start_daemon({"registry": {"groups": [self.NOBODY.pw_gid]}, **ECHO})
        self.as_nobody("echo")

    def test_users_of_one_service(self):
        self.start_daemon({"services": {"echo": {"users": ["nobody"]}, "other": {}}})
        self.as_nobody("echo")
        self.assertIn("other", self.assert_nobody_refused("other"))
        self.assert_nobody_refused("echo", "other")
        self.backend("echo", "other")

    def test_an_open_registry_is_not_open_to_every_user(self):
        self.start_daemon({"registry": {"open": True}, **ECHO})
        self.assert_nobody_refused("stranger")


class Dawdling(RegistryTest):
    """The registry does not depend on the engine."""

    def test_a_register_that_does_not_come(self):
        """10 seconds, says PROTOCOL.md; others are served meanwhile and afterwards."""
        daemon = self.start_daemon(ECHO)
        connection = self.registry_connection()
        registered = self.backend("echo")
        with self.assertRaises(Ended):
            while receive_message(connection).type == REFUSE:
                pass
        self.assertEqual(self.connect(daemon.address).ask("echo"), b"+\r\n")
        self.assertEqual(registered.receive().service, "echo")

    def test_many_that_dawdle_do_not_keep_others_out(self):
        daemon = self.start_daemon(ECHO)
        for _ in range(40):
            self.registry_connection()
        self.serve(self.backend("echo"))
        self.assert_served(daemon.address)


if __name__ == "__main__":
    main()
