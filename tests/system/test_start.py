"""Guards the ways to start: flags, a configuration that is wrong in any way (nothing starts, and
the message names file, line and column), the log level, sockets passed by systemd."""

import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import sys

from daemon import SYSTEMD_LAUNCHER
from harness import Daemon, SystemTest, binary, eventually, main, on_both_engines
from processes import WRAPPER

ECHO = {"services": {"echo": {}}}

# What is wrong, and where: the line and column that the message must name.
BAD_CONFIGS = {
    "unknown key": ('shards = 1\nsharts = 2\n', 2, 1, "shards"),
    "unknown section": ('[registri]\npath = "x"\n', 1, None, "registry"),
    "unknown key of a service": ('[services.echo]\nhiden = true\n', 2, 1, "hidden"),
    "wrong type": ('shards = "two"\n', 1, 10, "number"),
    "wrong type of a flag": ('[services.echo]\nhidden = 1\n', 2, 10, "true or false"),
    "out of range": ("\nshards = -1\n", 2, 10, "0 to"),
    "bad address": ('listen = ["127.0.0.1:0",\n  "nonsense:99999"]\n', 2, 3, "nonsense"),
    "bad prefix": ('[services.echo]\nallow = ["10.0.0.0/99"]\n', 2, 10, "10.0.0.0/99"),
    "allowed and denied": ('[services.echo]\nallow = ["::1"]\ndeny = ["::1"]\n', 3, 9, "::1"),
    "clash of names": ("[services.echo]\n[services.ECHO]\n", 2, None, "line 1"),
    "a name that cannot be": ('[services.help]\n', 1, None, "help"),
    "unknown engine": ('engine = "uring"\n', 1, 10, "io_uring"),
    "unknown user": ('[registry]\nusers = ["no-such-user"]\n', 2, 10, "no-such-user"),
    "no TOML": ("shards = = 1\n", 1, None, ""),
}


class CommandLine(SystemTest):
    """What is said and done before an engine is chosen."""

    def run_it(self, *flags):
        result = subprocess.run(
            [binary("tcpmuxd"), *flags], capture_output=True, text=True, timeout=60, check=False
        )
        return result.returncode, result.stdout, result.stderr

    def test_help(self):
        code, out, err = self.run_it("--help")
        self.assertEqual((code, err), (0, ""))
        flags = ["--config", "--listen", "--registry", "--shards", "--engine", "--check-config"]
        for flag in [*flags, "--log-level", "--version", "--help"]:
            self.assertIn(flag, out)

    def test_version(self):
        code, out, err = self.run_it("--version")
        self.assertEqual((code, err), (0, ""))
        self.assertRegex(out, r"\d+\.\d+\.\d+")

    def test_wrong_flags(self):
        for flags in [["--sharts", "2"], ["--shards", "x"], ["--engine", "uring"], ["--listen"]]:
            with self.subTest(flags=flags):
                code, _, err = self.run_it(*flags)
                self.assertGreater(code, 0)
                self.assertIn(flags[0], err)

    def test_a_bad_address_in_a_flag(self):
        code, _, err = self.run_it("--listen", "127.0.0.1", "--registry", self.registry)
        self.assertGreater(code, 0)
        self.assertIn("127.0.0.1", err)

    def test_a_file_that_is_not_there(self):
        missing = os.path.join(self.directory, "missing.toml")
        code, _, err = self.run_it("--config", missing)
        self.assertGreater(code, 0)
        self.assertIn(missing, err)

    def test_a_good_configuration(self):
        path = self.write_config({"listen": ["127.0.0.1:0"], **ECHO})
        code, _, err = self.run_it("--config", path, "--check-config", "--registry", self.registry)
        self.assertEqual(code, 0, err)
        self.assertNotIn("started", err)
        self.assertFalse(os.path.exists(self.registry), "only checked, not started")

    def test_bad_configurations(self):
        for what, (text, line, column, word) in BAD_CONFIGS.items():
            for flags in [["--check-config"], []]:
                with self.subTest(what, flags=flags):
                    path = self.write_config(text)
                    code, out, err = self.run_it(
                        "--config", path, "--registry", self.registry, *flags
                    )
                    self.assertGreater(code, 0)
                    place = re.search(re.escape(path) + r":(\d+):(\d+): ", out + err)
                    self.assertIsNotNone(place, out + err)
                    self.assertEqual(int(place[1]), line, err)
                    if column:
                        self.assertEqual(int(place[2]), column, err)
                    self.assertIn(word, err)
                    self.assertNotIn("started", err)
                    self.assertFalse(os.path.exists(self.registry))

    def test_all_that_is_wrong_is_said_at_once(self):
        path = self.write_config('sharts = 1\nengine = 7\n[help]\nenabled = "no"\n')
        code, _, err = self.run_it("--config", path, "--check-config")
        self.assertGreater(code, 0)
        for line in [1, 2, 4]:
            self.assertRegex(err, re.escape(path) + rf":{line}:\d+: ")


@on_both_engines
class Start(SystemTest):
    def test_the_started_line(self):
        daemon = self.start_daemon(ECHO, listen=["127.0.0.1:0", "[::1]:0"], shards=2)
        line = daemon.start_line
        self.assertRegex(line, r"\d+\.\d+\.\d+")
        self.assertIn(f"engine {self.engine}", line)
        self.assertIn(f"registry {self.registry}", line)
        self.assertEqual(daemon.shards, 2)
        self.assertEqual([host for host, _ in daemon.addresses], ["127.0.0.1", "::1"])
        self.assertNotIn(0, [port for _, port in daemon.addresses])

    def test_flags_override_the_file(self):
        elsewhere = os.path.join(self.directory, "elsewhere.sock")
        config = {
            "listen": ["127.0.0.9:0"],
            "shards": 3,
            "engine": "auto",
            "registry": {"path": elsewhere},
            **ECHO,
        }
        daemon = self.start_daemon(config, shards=1)
        self.assertEqual(daemon.shards, 1)
        self.assertEqual([host for host, _ in daemon.addresses], ["127.0.0.1"])
        self.assertTrue(os.path.exists(self.registry))
        self.assertFalse(os.path.exists(elsewhere))

    def test_everything_from_the_file(self):
        config = {
            "listen": ["127.0.0.9:0"],
            "shards": 3,
            "engine": self.engine,
            "log_level": "info",
            "registry": {"path": self.registry, "open": True, "users": [], "groups": []},
            "handshake": {
                "deadline_ms": 5000,
                "line_bytes_max": 20,
                "connections_per_shard_max": 100,
                "defer_accept": True,
            },
            "handoff": {
                "window_max": 7,
                "stall_ms": 1000,
                "deadline_ms": 5000,
                "room_wait_ms": 50,
            },
            "help": {"enabled": True},
            "services": {"echo": {"message": "ready", "allow": ["127.0.0.0/8"], "deny": []}},
        }
        daemon = self.keep(
            Daemon([*WRAPPER, binary("tcpmuxd"), "--config", self.write_config(config)])
        ).wait_started()
        self.addCleanup(daemon.stop)
        self.assertEqual((daemon.shards, daemon.engine), (3, self.engine))
        self.assertEqual([host for host, _ in daemon.addresses], ["127.0.0.9"])
        backend = self.backend("echo", "another", window=100)
        self.assertEqual((backend.window, len(backend.lanes)), (7, 3))
        self.serve(backend)
        self.assert_served(daemon.address, "another")
        self.assertEqual(self.connect(daemon.address).ask("echo"), b"+ready\r\n")
        self.assert_refused(daemon.address, b"n" * 18 + b"\r\n", b"-unknown")
        self.assert_refused(daemon.address, b"n" * 19 + b"\r\n", b"-too long")

    def test_the_log_level(self):
        """At "error" not even the start is worth a line; refusals neither."""
        daemon = self.launch_daemon(ECHO, flags=["--log-level", "error"])
        backend = eventually(self.registered, "the daemon has started")
        backend.close()
        daemon.signal(signal.SIGTERM)
        daemon.expect_exit()
        logged = [line for line in daemon.text().splitlines() if not line.startswith("==")]
        self.assertEqual(logged, [], "valgrind's lines apart")

    def registered(self):
        try:
            return self.backend("echo")
        except (FileNotFoundError, ConnectionRefusedError):
            return None

    def test_sockets_from_systemd(self):
        for family, host in [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]:
            with self.subTest(host), socket.socket(family) as listener:
                listener.bind((host, 0))
                listener.listen()
                path = os.path.join(self.directory, f"{family.name}.sock")
                number = listener.fileno()
                daemon = self.start_daemon(
                    ECHO,
                    listen=[],
                    registry=path,
                    launcher=[sys.executable, "-c", SYSTEMD_LAUNCHER, number],
                    pass_fds=[number],
                )
                port = listener.getsockname()[1]
                self.assertEqual(daemon.addresses, [(host, port)])
                self.serve(self.backend("echo", registry=path))
                for _ in range(50):
                    self.assert_served((host, port))

    def test_more_sockets_than_there_are_descriptors_for(self):
        """Whatever listens takes of what connections may have."""
        with socket.socket() as listener, contextlib.ExitStack() as copies:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            passed = [copies.enter_context(listener.dup()).fileno() for _ in range(20)]
            result = subprocess.run(
                [sys.executable, "-c", SYSTEMD_LAUNCHER, ",".join(map(str, passed))]
                + [binary("tcpmuxd"), "--engine", self.engine, "--shards", "1"]
                + ["--registry", self.registry],
                pass_fds=passed,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertIn("limit of 64 is too small for 1 shards with 20 listeners", result.stderr)

    def test_sockets_meant_for_another_process(self):
        """LISTEN_PID names somebody else: the variables are not for us."""
        env = {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
        daemon = self.start_daemon(ECHO, env=env)
        self.assertEqual(daemon.address[0], "127.0.0.1")


if __name__ == "__main__":
    main()
