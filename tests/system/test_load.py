"""Guards that tcpmux-load says the truth: each kind of connection against the daemon and against a
server that is not ours, each way to fail against servers that misbehave, and the modes."""

import json
import signal
import socket
import time

from harness import Child, SystemTest, binary, eventually, main, on_both_engines
from server import Server, echo, read_line, reset, say_nothing, tcpmux

SERVICES = {
    "services": {"echo": {"message": "echo ready"}, "discard": {}, "absent": {}},
    # The backend is killed after the test, perhaps before it has received all.
    "handoff": {"deadline_ms": 100},
}
FAILURES = [
    "refused",
    "reset",
    "timed_out",
    "wrong_reply",
    "denied",
    "closed_early",
    "closed_after_plus",
    "local",
]
TIMES = ["count", "min", "mean", "p50", "p90", "p99", "p99_9", "max"]
COUNT = 200
STALL_S = 1.0


def text_of(address):
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class LoadTest(SystemTest):
    def start_load(self, address, *words, form=("--json", "--no-progress")):
        command = [binary("tcpmux-load"), "--engine", self.load_engine(), *form]
        return self.keep(Child([*command, *map(str, words), text_of(address)]))

    def load_engine(self):
        return self.engine

    def load(self, address, *words, status=0):
        """Runs it to its end, and gives what it says."""
        child = self.start_load(address, *words)
        self.assertEqual(child.wait_exit(), status, child.text())
        return self.json_of(child)

    def failures(self, report):
        return {name: count for name, count in report["failures"].items() if count}

    def assert_all_well(self, report, kind, count=COUNT):
        self.assertEqual(self.failures(report), {}, report)
        self.assertEqual((report["started"], report["completed"]), (count, count))
        self.assertEqual(report["kinds"], {kind: {"completed": count, "failed": 0}})

    def json_of(self, child):
        return json.loads(child.text()[child.text().index("{") :])

    def server(self, serve):
        server = Server(serve)
        self.addCleanup(server.stop)
        return server.address

    def start_services(self, config=None, **options):
        daemon = self.start_daemon(config or SERVICES, **options)
        self.demo("echo", "discard")
        return daemon


@on_both_engines
class Kinds(LoadTest):
    """Everything that it can say, to a server that answers well."""

    def check_kinds(self, address, expect):
        for kind in ["handshake", "trickle", "unknown", "help"]:
            with self.subTest(kind=kind):
                report = self.load(address, "--kind", kind, "--count", COUNT)
                self.assert_all_well(report, kind)
                self.assertEqual(report["latency_us"]["reply"]["count"], COUNT)
        with self.subTest(kind="session"):
            words = ["--kind", "session", "--messages", 5, "--bytes", 1000, "--expect", expect]
            report = self.load(address, *words, "--count", COUNT)
            self.assert_all_well(report, "session")
            self.assertEqual(report["session"]["messages"], 5 * COUNT)
            self.assertEqual(report["session"]["bytes_echoed"], 5000 * COUNT)
            self.assertEqual(report["session"]["round_trip_us"]["count"], 5 * COUNT)
            self.assertEqual(report["latency_us"]["first_byte"]["count"], COUNT)
        with self.subTest(kind="early"):
            words = ["--kind", "early", "--bytes", 3000, "--close", "rst"]
            self.assert_all_well(self.load(address, *words, "--count", COUNT), "early")

    def test_with_tcpmuxd(self):
        daemon = self.start_services()
        self.check_kinds(daemon.address, "+echo ready")
        self.assertGreater(daemon.counters()["helped"], 0)
        self.assertGreater(daemon.counters()["refused_unknown"], 0)

    def test_with_another_server(self):
        self.check_kinds(self.server(tcpmux), "+Go")

    def test_a_mix(self):
        address = self.start_services().address
        report = self.load(address, "--kind", "handshake=6,session=3,unknown", "--count", 100)
        completed = {kind: of_kind["completed"] for kind, of_kind in report["kinds"].items()}
        self.assertEqual(completed, {"handshake": 60, "session": 30, "unknown": 10})

    def test_half_a_line_and_silence_until_the_deadline(self):
        config = {"handshake": {"deadline_ms": 300}, **SERVICES}
        daemon = self.start_services(config)
        for kind in ["half", "silent"]:
            report = self.load(daemon.address, "--kind", kind, "--count", 10)
            self.assert_all_well(report, kind, 10)
        self.assertGreaterEqual(daemon.counters()["timed_out"], 10)

    def test_messages_longer_than_any_buffer(self):
        address = self.start_services().address
        for kind in ["session", "early"]:
            words = ["--kind", kind, "--bytes", 1024 * 1024, "--messages", 2]
            self.assert_all_well(self.load(address, *words, "--count", 4), kind, 4)

    def test_ipv6_and_threads(self):
        daemon = self.start_services(listen=("[::1]:0",))
        report = self.load(daemon.address, "--threads", 2, "--count", COUNT)
        self.assert_all_well(report, "handshake")
        self.assertEqual(report["threads"], 2)
        self.assertEqual(report["target"], text_of(daemon.address))

    def test_without_a_mux(self):
        address = self.server(lambda connection, _: echo(connection))
        report = self.load(address, "--direct", "--messages", 3, "--count", COUNT)
        self.assert_all_well(report, "session")
        self.assertEqual(report["latency_us"]["reply"]["count"], 0)
        self.assertIsNone(report["latency_us"]["reply"]["p50"])
        self.assertEqual(report["session"]["messages"], 3 * COUNT)

    def test_sources_are_spread(self):
        sources = set()

        def serve(connection, _):
            sources.add(connection.getpeername()[0])
            tcpmux(connection)

        self.load(self.server(serve), "--source-addresses", 5, "--count", 20)
        self.assertEqual(sources, {f"127.0.0.{last}" for last in range(1, 6)})


@on_both_engines
class Failures(LoadTest):
    """Each is counted by its name, and the exit status tells of it."""

    def assert_fails(self, address, failure, *words, count=20):
        report = self.load(address, "--count", count, *words, status=1)
        self.assertEqual(self.failures(report), {failure: count}, report)
        self.assertEqual(report["completed"], 0)
        return report

    def assert_serving_fails(self, serve, failure, *words):
        return self.assert_fails(self.server(serve), failure, *words)

    def test_nobody_listens(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            self.assert_fails(unused.getsockname(), "refused")
            self.assert_fails(unused.getsockname(), "refused", "--kind", "silent")

    def test_the_reply_is_another(self):
        address = self.start_services().address
        for reply in ["+echo read", "+echo readyy", "+"]:
            self.assert_fails(address, "wrong_reply", "--expect", reply)
        self.load(address, "--expect", "+echo ready", "--count", 20)

    def test_denials_are_counted_by_their_words(self):
        address = self.start_services().address
        report = self.assert_fails(address, "denied", "--service", "nobody-has-this")
        ((reply, count),) = report["denials"].items()
        self.assertRegex(reply, "^-unknown")
        self.assertEqual(count, 20)
        report = self.assert_fails(address, "denied", "--service", "absent", "--kind", "session")
        self.assertRegex(list(report["denials"])[0], "^-unavailable")

    def test_closed_too_early(self):
        self.assert_serving_fails(lambda connection, _: read_line(connection), "closed_early")

    def test_closed_after_plus(self):
        def serve(connection, _):
            read_line(connection)
            connection.sendall(b"+\r\n")
            connection.recv(1)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(65536)

        words = ["--kind", "session", "--bytes", 1]
        report = self.assert_serving_fails(serve, "closed_after_plus", *words)
        self.assertEqual(report["accepted"], 20, "they were told '+' all the same")

    def test_reset(self):
        def serve(connection, _):
            read_line(connection)
            reset(connection)

        self.assert_serving_fails(serve, "reset")

    def test_an_echo_with_one_wrong_byte(self):
        def serve(connection, _):
            read_line(connection)
            connection.sendall(b"+\r\n")
            data = bytearray(connection.recv(64))
            data[-1] ^= 1
            connection.sendall(data)
            connection.recv(1)

        self.assert_serving_fails(serve, "wrong_reply", "--kind", "session")

    def test_early_bytes_that_are_lost(self):
        def serve(connection, _):
            connection.recv(65536)
            connection.sendall(b"+\r\n")
            connection.recv(1)

        words = ["--kind", "early", "--timeout", 300]
        self.assert_serving_fails(serve, "timed_out", *words)

    def test_an_unknown_name_that_is_served(self):
        def serve(connection, _):
            read_line(connection)
            connection.sendall(b"+\r\n")

        self.assert_serving_fails(serve, "wrong_reply", "--kind", "unknown")
        self.assert_serving_fails(serve, "wrong_reply", "--kind", "help")

    def test_no_answer(self):
        self.assert_serving_fails(say_nothing, "timed_out", "--timeout", 200)

    def test_some_fail(self):
        def serve(connection, number):
            read_line(connection)
            connection.sendall(b"-busy\r\n" if number % 4 == 0 else b"+\r\n")

        report = self.load(self.server(serve), "--count", 40, status=1)
        self.assertEqual(self.failures(report), {"denied": 10})
        self.assertEqual(report["denials"], {"-busy": 10})
        self.assertEqual(report["accepted"], 30)
        self.assertEqual(report["kinds"]["handshake"], {"completed": 30, "failed": 10})


@on_both_engines
class Modes(LoadTest):
    def test_open_loop(self):
        address = self.start_services().address
        report = self.load(address, "--rate", 400, "--duration", 0.5, "--warm-up", 0.1)
        self.assert_all_well(report, "handshake", 200)
        self.assertEqual((report["mode"], report["rate"]), ("open", 400))

    def test_a_stall_counts_for_all_that_were_to_start(self):
        """One at a time, and the first waits: in a closed loop one latency would be long, and here
        all of those that should have started meanwhile are."""

        def serve(connection, number):
            if number == 0:
                time.sleep(STALL_S)  # what is measured
            tcpmux(connection)

        words = ["--rate", 100, "--connections", 1, "--duration", STALL_S]
        report = self.load(self.server(serve), *words)
        reply_us = report["latency_us"]["reply"]
        self.assertEqual(reply_us["count"], 100)
        self.assertGreater(reply_us["p50"], STALL_S / 4 * 1e6)
        self.assertGreaterEqual(reply_us["max"], STALL_S * 1e6)

    def test_what_a_stalled_server_keeps_from_starting_is_timed_out(self):
        address = self.server(say_nothing)
        words = ["--rate", 100, "--connections", 2, "--duration", 0.2, "--timeout", 300]
        report = self.load(address, *words, status=1)
        self.assertEqual(self.failures(report), {"timed_out": 20})
        self.assertEqual(report["started"], 20)

    def test_a_duration_ends_sessions_between_messages(self):
        address = self.start_services().address
        words = ["--kind", "session", "--messages", 10**9, "--connections", 3, "--duration", 0.3]
        report = self.load(address, *words, "--bytes", 100)
        self.assert_all_well(report, "session", 3)
        session = report["session"]
        self.assertGreater(session["messages"], 3)
        self.assertEqual(session["bytes_echoed"], 100 * session["messages"])

    def test_holding(self):
        config = {"handshake": {"deadline_ms": 600_000, "defer_accept": False}, **SERVICES}
        daemon = self.start_services(config)
        before = len(daemon.settled_descriptors())
        for kind in ["half", "silent"]:
            child = self.start_load(daemon.address, "--hold", "--kind", kind, "--connections", 50)
            child.wait_for_line("^holding 50$")
            eventually(
                lambda: len(daemon.descriptors()) >= before + 50,
                "the daemon holds as many",
            )
            child.signal(signal.SIGTERM)
            self.assertEqual(child.wait_exit(), 0, child.text())
            report = self.json_of(child)
            self.assertEqual((report["mode"], report["started"]), ("hold", 50))
            self.assertEqual((report["completed"], self.failures(report)), (0, {}))
            eventually(lambda: len(daemon.descriptors()) <= before, "the daemon is rid of them")

    def test_not_all_can_be_held(self):
        """Who waits for "holding" is not kept waiting."""
        short = socket.create_server(("127.0.0.1", 0), backlog=3)
        self.addCleanup(short.close)
        words = ["--hold", "--kind", "silent", "--connections", 20, "--timeout", 500]
        child = self.start_load(short.getsockname(), *words)
        self.assertEqual(child.wait_exit(), 1)
        self.assertNotIn("holding", child.text())
        self.assertGreater(self.json_of(child)["failures"]["timed_out"], 0)

    def test_what_is_held_and_closed_is_told(self):
        address = self.server(lambda connection, _: None)
        words = ["--hold", "--kind", "silent", "--connections", 5, "--duration", 30]
        self.assertGreater(self.load(address, *words, status=1)["failures"]["closed_early"], 0)

    def test_ends_when_told(self):
        address = self.start_services().address
        child = self.start_load(address, "--duration", 600, form=["--progress"])
        child.wait_for_text(r"[1-9]\d* completed")
        child.signal(signal.SIGINT)
        self.assertEqual(child.wait_exit(), 0, child.text())
        self.assertIn("no failures", child.text())

    def test_all_fields_are_there(self):
        daemon = self.start_services()
        report = self.load(daemon.address, "--count", COUNT, "--cpu-of", daemon.pid)
        self.assertEqual(report["engine"], self.engine)
        self.assertEqual(report["mode"], "closed")
        self.assertEqual(report["connections_at_once"], 64)
        self.assertIsNone(report["rate"])
        self.assertEqual(list(report["failures"]), FAILURES)
        self.assertEqual(report["denials"], {})
        self.assertAlmostEqual(report["per_second"], COUNT / report["seconds"], delta=0.01)
        times = [*report["latency_us"].values(), report["session"]["round_trip_us"]]
        self.assertEqual([list(one) for one in times], [TIMES] * 4)
        reply = report["latency_us"]["reply"]
        in_order = [reply[name] for name in ["min", "p50", "p90", "p99", "p99_9", "max"]]
        self.assertEqual(in_order, sorted(in_order))
        self.assertLessEqual(report["latency_us"]["connect"]["min"], reply["min"])
        self.assertGreater(report["client"]["cpu_us_per_connection"], 0)
        (process,) = report["processes"]
        self.assertEqual((process["pid"], process["name"]), (daemon.pid, "tcpmuxd"))
        self.assertGreater(process["cpu_us_per_connection"], 0)
        self.assertGreaterEqual(process["user_us_per_connection"], 0)
        self.assertGreater(process["wakeups_per_connection"], 0)


class OnceForBothEngines(LoadTest):
    """What has no engine."""

    def load_engine(self):
        return "auto"

    def test_backlog(self):
        daemon = self.start_services()
        words = ["--backlog", 300, "--stop", daemon.pid, "--service", "discard", "--cpu-of"]
        report = self.load(daemon.address, *words, daemon.pid, "--expect", "+")
        self.assert_all_well(report, "handshake", 300)
        self.assertEqual(report["mode"], "backlog")
        self.assertEqual(report["connections_at_once"], 300)
        self.assertEqual(daemon.wait_counter("handed_off", 300)["handed_off"], 300)

    def test_a_backlog_is_judged_too(self):
        daemon = self.start_services()
        words = ["--backlog", 50, "--stop", daemon.pid]
        report = self.load(daemon.address, *words, "--service", "absent", status=1)
        self.assertEqual(self.failures(report), {"denied": 50})

    def test_a_backlog_that_is_too_short(self):
        """The server goes on, and we are told what to do."""
        short = socket.create_server(("127.0.0.1", 0), backlog=3)
        self.addCleanup(short.close)
        sleeper = self.keep(Child(["sleep", "600"]))
        child = self.start_load(short.getsockname(), "--backlog", 50, "--stop", sleeper.pid)
        self.assertEqual(child.wait_exit(), 2)
        self.assertRegex(child.text(), "no room for more than [0-9]+ connections.*smaller")
        with open(f"/proc/{sleeper.pid}/status", encoding="ascii") as status:
            self.assertRegex(status.read(), r"State:\t[SR]")

    def test_a_process_that_is_not_there(self):
        gone = self.keep(Child(["true"]))
        gone.wait_exit()
        child = self.start_load(("127.0.0.1", 9), "--backlog", 5, "--stop", gone.pid)
        self.assertEqual(child.wait_exit(), 2)
        self.assertIn("cannot be stopped", child.text())

    def test_text(self):
        address = self.start_services().address
        child = self.start_load(address, "--count", 50, form=[])
        self.assertEqual(child.wait_exit(), 0)
        self.assertRegex(child.text(), r"50 connections completed in [0-9.]+ s: \d+ a second")
        self.assertIn("no failures", child.text())

    def test_too_few_descriptors(self):
        command = f"ulimit -n 100; exec {binary('tcpmux-load')} --connections 200 127.0.0.1:9"
        child = self.keep(Child(["sh", "-c", command]))
        self.assertEqual(child.wait_exit(), 2)
        self.assertIn("ulimit", child.text())


if __name__ == "__main__":
    main()
