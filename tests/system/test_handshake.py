"""Guards the handshake, byte for byte: every row of what other TCPMUX servers get wrong (line
ends, split and pipelined bytes, early data, bad and overlong names, clients that vanish), that a
'-' arrives and ends with FIN, and that nothing but the request line is ever consumed."""

import time

from harness import Ending, SystemTest, exchange, main, on_both_engines

SERVICES = {"services": {"foo": {}, "Bar-2.x": {"message": "bar ready"}}}
QUICK = {"handshake": {"deadline_ms": 700}}


@on_both_engines
class Accepted(SystemTest):
    """Requests that are answered '+'."""

    def setUp(self):
        super().setUp()
        self.daemon = self.start_daemon(SERVICES)
        self.foo = self.backend("foo", "bar-2.x", window=64)

    def accepted(self, *segments, reply=b"+\r\n", leftover=b"", service="foo"):
        """Sends the segments, each taken by the server before the next, and checks what both
        sides see: the client the reply, the backend what stood behind the line, and no more."""
        client = self.connect(self.daemon.address)
        for segment in segments[:-1]:
            client.send_and_wait_until_read(segment)
        client.send(segments[-1])
        self.assertEqual(client.read_line(), reply)
        handed = self.foo.receive()
        self.assertEqual(handed.service.lower(), service)
        client.send(b"later")
        client.half_close()
        self.assertEqual(handed.read_to_end(), leftover + b"later")
        handed.answer(b"bye")
        self.assertEqual(client.read_to_end(), (b"bye", Ending.FIN))
        client.close()

    def test_crlf(self):
        self.accepted(b"foo\r\n")

    def test_bare_lf(self):
        self.accepted(b"foo\n")

    def test_one_byte_a_segment(self):
        self.accepted(*(bytes([byte]) for byte in b"foo\r\n"))
        self.accepted(*(bytes([byte]) for byte in b"foo\n"))

    def test_every_split_in_two(self):
        line = b"foo\r\n"
        for at in range(1, len(line)):
            with self.subTest(at=at):
                self.accepted(line[:at], line[at:] + b"EARLY", leftover=b"EARLY")

    def test_cr_then_lf_leaks_nothing(self):
        self.accepted(b"foo\r", b"\n")

    def test_early_data_reaches_the_backend(self):
        for early in [b"EARLY", b"\r\n", b"\n", b"foo\r\n", b"\0\xff" * 2000, b"x" * 100_000]:
            for line in [b"foo\r\n", b"foo\n"]:
                with self.subTest(line=line, early=early[:10]):
                    self.accepted(line + early, leftover=early)

    def test_early_data_behind_a_line_that_came_in_pieces(self):
        self.accepted(b"f", b"oo", b"\r\nEARLY\r\nMORE", leftover=b"EARLY\r\nMORE")

    def test_names_in_any_case(self):
        for name in [b"foo", b"FOO", b"Foo", b"fOO"]:
            with self.subTest(name=name):
                self.accepted(name + b"\r\n")
        for name in [b"Bar-2.x", b"bar-2.x", b"BAR-2.X"]:
            with self.subTest(name=name):
                self.accepted(name + b"\r\n", reply=b"+bar ready\r\n", service="bar-2.x")

    def test_a_line_and_fin_at_once_is_served(self):
        client = self.connect(self.daemon.address)
        client.send(b"foo\r\nall I have")
        client.half_close()
        handed = self.foo.receive()
        self.assertEqual(handed.read_to_end(), b"all I have")
        handed.answer(b"thanks")
        self.assertEqual(client.read_to_end(), (b"+\r\nthanks", Ending.FIN))

    def test_the_reply_precedes_the_backend(self):
        self.serve(self.foo, b"BANNER")
        for _ in range(200):
            outcome = exchange(self.daemon.address, b"foo\r\n")
            self.assertEqual(outcome, (b"+\r\nBANNER", Ending.FIN))

    def test_our_copy_is_closed(self):
        """The client sees FIN as soon as the backend closes: no copy is left in the mux."""
        client = self.connect(self.daemon.address)
        self.assertEqual(client.ask("foo"), b"+\r\n")
        self.foo.receive().socket.close()
        self.assertEqual(client.read_to_end(), (b"", Ending.FIN))

    def test_a_name_of_255_bytes_can_be_served(self):
        self.daemon.stop()
        name = "n" * 255
        daemon = self.start_daemon({"services": {name: {}}})
        self.serve(self.backend(name))
        self.assert_served(daemon.address, name)


@on_both_engines
class Refused(SystemTest):
    """Requests that are answered '-': the reply arrives whole, and FIN follows it, not RST."""

    def setUp(self):
        super().setUp()
        self.daemon = self.start_daemon(SERVICES)
        self.backend("foo")
        self.addCleanup(self.nothing_was_handed_over)

    def nothing_was_handed_over(self):
        self.assertEqual(self.daemon.counters()["handed_off"], 0)

    def refused(self, line, reason):
        with self.subTest(line=line[:40], bytes=len(line)):
            self.assert_refused(self.daemon.address, line, reason)

    def test_unknown(self):
        for name in [b"nothing", b"fo", b"fooo", b"foo;", b"bar", b"helpme", b"+foo", b"-"]:
            self.refused(name + b"\r\n", b"-unknown")
            self.refused(name + b"\n", b"-unknown")

    def test_empty_line(self):
        self.refused(b"\r\n", b"-invalid")
        self.refused(b"\n", b"-invalid")
        self.refused(b"\r\nfoo\r\n", b"-invalid")

    def test_nul(self):
        self.refused(b"foo\0junk\r\n", b"-invalid")
        self.refused(b"foo\0\r\n", b"-invalid")
        self.refused(b"\0foo\r\n", b"-invalid")

    def test_every_byte_that_no_name_has(self):
        bad = [byte for byte in range(256) if not 0x21 <= byte <= 0x7E and byte != 0x0A]
        for byte in bad:
            self.refused(b"f" + bytes([byte]) + b"oo\r\n", b"-invalid")

    def test_spaces_around_the_name(self):
        for line in [b" foo\r\n", b"foo \r\n", b"foo\t\r\n", b"foo bar\r\n", b"foo\r\r\n"]:
            self.refused(line, b"-invalid")

    def test_long_names(self):
        self.refused(b"n" * 255 + b"\r\n", b"-unknown")
        self.refused(b"n" * 300 + b"\r\n", b"-too long")
        self.refused(b"n" * 1024 + b"\r\n", b"-too long")
        self.refused(b"n" * 5000 + b"\r\n", b"-too long")
        self.refused(b"n" * 1024, b"-too long")
        self.refused(b"n" * 5000, b"-too long")
        self.refused(b"n" * 1_000_000, b"-too long")

    def test_a_megabyte_behind_an_unknown_name(self):
        self.refused(b"nothing\r\n" + b"x" * 1_000_000, b"-unknown")
        self.refused(b"a b\r\n" + b"x" * 1_000_000, b"-invalid")

    def test_data_behind_a_refusal_that_comes_later(self):
        client = self.connect(self.daemon.address)
        client.send(b"nothing\r\n")
        client.send_what_is_taken(b"x" * 100_000)
        data, ending = client.read_to_end()
        self.assertRegex(data, rb"\A-unknown[^\r\n]*\r\n\Z")
        self.assertIs(ending, Ending.FIN)

    def test_unavailable(self):
        self.refused(b"bar-2.x\r\n", b"-unavailable")

    def test_a_client_that_does_not_leave_after_a_refusal(self):
        """It keeps no slot for ever: a refused client is closed whatever it does."""
        before = self.daemon.settled_descriptors()
        client = self.connect(self.daemon.address)
        client.send(b"nothing\r\n")
        self.assertTrue(client.read_line().startswith(b"-unknown"))
        self.assertEqual(client.read_to_end(), (b"", Ending.FIN))
        self.daemon.wait_for_descriptors(before)


@on_both_engines
class LineLength(SystemTest):
    def test_the_longest_line(self):
        """line_bytes_max counts the line end: 20 bytes are a line, 21 are too many."""
        daemon = self.start_daemon({"handshake": {"line_bytes_max": 20}})
        self.assert_refused(daemon.address, b"n" * 18 + b"\r\n", b"-unknown")
        self.assert_refused(daemon.address, b"n" * 19 + b"\r\n", b"-too long")
        self.assert_refused(daemon.address, b"n" * 19 + b"\n", b"-unknown")
        self.assert_refused(daemon.address, b"n" * 20 + b"\n", b"-too long")
        self.assert_refused(daemon.address, b"n" * 20, b"-too long")


@on_both_engines
class Help(SystemTest):
    CONFIG = {
        "services": {
            "zebra": {},
            "Echo": {"message": "hello"},
            "echo-2": {},
            "alpha": {},
            "secret": {"hidden": True},
        }
    }
    LIST = b"alpha\r\nEcho\r\necho-2\r\nzebra\r\n"

    def test_help_in_any_case(self):
        daemon = self.start_daemon(self.CONFIG)
        for line in [b"HELP\r\n", b"help\r\n", b"Help\r\n", b"hElP\n", b"HELP\n"]:
            with self.subTest(line=line):
                self.assertEqual(exchange(daemon.address, line), (self.LIST, Ending.FIN))

    def test_help_byte_by_byte(self):
        daemon = self.start_daemon(self.CONFIG)
        client = self.connect(daemon.address)
        for byte in b"HELP\r":
            client.send_and_wait_until_read(bytes([byte]))
        client.send(b"\n")
        self.assertEqual(client.read_to_end(), (self.LIST, Ending.FIN))

    def test_data_behind_help(self):
        daemon = self.start_daemon(self.CONFIG)
        data, ending = exchange(daemon.address, b"HELP\r\n" + b"x" * 100_000)
        self.assertEqual((data, ending), (self.LIST, Ending.FIN))

    def test_help_of_nothing(self):
        daemon = self.start_daemon()
        self.assertEqual(exchange(daemon.address, b"HELP\r\n"), (b"", Ending.FIN))

    def test_help_longer_than_a_socket_buffer(self):
        names = [f"{number:04}-" + "x" * 200 for number in range(2000)]
        daemon = self.start_daemon({"services": {name: {} for name in names}})
        expected = b"".join(name.encode() + b"\r\n" for name in names)
        self.assertEqual(exchange(daemon.address, b"HELP\r\n"), (expected, Ending.FIN))

    def test_help_disabled(self):
        daemon = self.start_daemon({"help": {"enabled": False}, **self.CONFIG})
        reply = self.assert_refused(daemon.address, b"HELP\r\n", b"-")
        for name in [b"alpha", b"echo", b"zebra", b"secret"]:
            self.assertNotIn(name, reply.lower())


@on_both_engines
class Unfinished(SystemTest):
    """Clients that stop, or vanish, before their line is whole: they cost nothing."""

    def setUp(self):
        super().setUp()
        self.daemon = self.start_daemon({**SERVICES, **QUICK})
        self.foo = self.backend("foo", window=64)
        self.descriptors = self.daemon.settled_descriptors()

    def all_is_well(self):
        """Nothing is held for those clients, and the next one is served."""
        self.daemon.wait_for_descriptors(self.descriptors)
        client = self.connect(self.daemon.address)
        self.assertEqual(client.ask("FOO"), b"+\r\n")
        client.send(b"last one")
        client.half_close()
        self.assertEqual(self.foo.receive_from(client).read_to_end(), b"last one")

    def test_half_a_name_then_fin(self):
        for half in [b"", b"f", b"foo", b"foo\r"]:
            with self.subTest(half=half):
                client = self.connect(self.daemon.address)
                client.send(half)
                client.half_close()
                self.assertEqual(client.read_to_end(), (b"", Ending.FIN))
        self.all_is_well()

    def test_half_a_name_then_silence(self):
        for half in [b"f", b"foo", b"foo\r"]:
            with self.subTest(half=half):
                start = time.monotonic()
                client = self.connect(self.daemon.address)
                client.send(half)
                self.assertEqual(client.read_to_end(), (b"", Ending.FIN))
                self.assertGreaterEqual(time.monotonic() - start, 0.6, "closed before its time")
        self.all_is_well()

    def test_silence(self):
        client = self.connect(self.daemon.address)
        self.assertEqual(client.read_to_end(), (b"", Ending.FIN))
        self.all_is_well()

    def test_one_deadline_for_all_reads(self):
        """A client that drips bytes is ended as well: it would need 25 s to fill the line."""
        client = self.connect(self.daemon.address)
        client.socket.settimeout(0.05)
        reply = None
        for _ in range(480):
            try:
                client.send(b"f")
                reply = client.socket.recv(100)
                break
            except TimeoutError:
                continue
            except (ConnectionResetError, BrokenPipeError):
                reply = b""
                break
        self.assertEqual(reply, b"", "closed without a word")
        self.all_is_well()

    def test_a_deadline_leaves_clients_that_were_served(self):
        early = self.connect(self.daemon.address)
        self.assertEqual(early.ask("foo"), b"+\r\n")
        handed = self.foo.receive()
        idle = self.connect(self.daemon.address)
        idle.send(b"foo")
        self.assertEqual(idle.read_to_end(), (b"", Ending.FIN))
        early.send(b"still here")
        early.half_close()
        self.assertEqual(handed.read_to_end(), b"still here")

    def test_client_resets_at_each_point(self):
        for sent in [b"", b"f", b"foo", b"foo\r", b"nothing\r\n", b"HELP\r\n", b"a b\r\n"]:
            for _ in range(5):
                client = self.connect(self.daemon.address)
                client.send(sent)
                client.reset()
            client = self.connect(self.daemon.address)
            if b"\n" in sent:
                client.send(sent)
            elif sent:
                client.send_and_wait_until_read(sent)
            client.reset()
        self.all_is_well()

    def test_client_resets_behind_its_line(self):
        """Whether it is still handed over is a race; the backend drops what is dead."""
        for _ in range(20):
            client = self.connect(self.daemon.address)
            client.send(b"foo\r\nEARLY")
            client.reset()
        client = self.connect(self.daemon.address)
        self.assertEqual(client.ask("foo"), b"+\r\n")
        client.reset()
        self.all_is_well()


if __name__ == "__main__":
    main()
