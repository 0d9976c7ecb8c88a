"""Guards the upgrade: the next binary takes over listeners, registry, backends and lanes while
clients come without end, and not one of them notices; and where it cannot, the old one goes on.

TCPMUX_UPGRADE_SECONDS (default 6) is how long the load lasts, about, in which ten upgrades happen,
TCPMUX_UPGRADE_RATE (default 400) how many clients come in a second."""

import json
import os
import shutil
import signal
import stat
import subprocess

from backend import Ended, receive_message
from control import ControlClient
from daemon import daemon_command
from generations import Generations
from harness import SystemTest, binary, eventually, main, on_both_engines

SECONDS = float(os.environ.get("TCPMUX_UPGRADE_SECONDS", "6"))
UPGRADES = 10
RATE = int(os.environ.get("TCPMUX_UPGRADE_RATE", "400"))
# What each process serves before it is replaced: so the upgrades are spread over the load.
SHARE = RATE * SECONDS / (UPGRADES + 2)
ECHO = {"services": {"echo": {}, "other": {}}}
PATIENT = {"handshake": {"deadline_ms": 60_000}, **ECHO}


class UpgradeTest(SystemTest):
    def start(self, config=None, *, program=None, **options):
        usual = {"shards": 2, "listen": ("127.0.0.1:0",), "registry": self.registry}
        command = daemon_command(
            self.write_config(config or ECHO),
            engine=self.engine,
            flags=(),
            **{**usual, **options},
        )
        if program:
            command[0] = program
        daemon = self.keep(Generations(command, self.registry)).wait_started()
        self.addCleanup(daemon.stop)
        return daemon

    def script(self, text):
        """A daemon whose binary was replaced by a script after its start."""
        program = os.path.join(self.directory, "tcpmuxd")
        shutil.copy(binary("tcpmuxd"), program)
        daemon = self.start(program=program)
        os.rename(program, program + ".old")
        with open(program, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(program, stat.S_IRWXU)
        return daemon

    def is_closed(self, address):
        try:
            self.connect(address).close()
        except (ConnectionRefusedError, ConnectionResetError):
            return True
        return False

    def says_nothing(self, backend):
        """Nobody has told the backend anything on its registration, nor ended it."""
        backend.registry.setblocking(False)
        try:
            message = receive_message(backend.registry)
        except BlockingIOError:
            return True
        except Ended:
            return False
        finally:
            backend.registry.setblocking(True)
        self.fail(f"the backend was told {message}")
        return False


@on_both_engines
class UnderLoad(UpgradeTest):
    def load(self, daemon):
        """Clients without end, or for so long as nobody waits for."""
        command = [
            binary("tcpmux-load"),
            f"127.0.0.1:{daemon.address[1]}",
            *("--kind", "session", "--messages", "3", "--rate", str(RATE)),
            *("--duration", str(SECONDS + 600), "--timeout", "30000", "--json"),
        ]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(child.kill)
        return child

    def test_ten_in_a_row(self):
        daemon = self.start()
        demo = self.demo("echo")
        load = self.load(daemon)
        for _ in range(UPGRADES):
            daemon.upgrade()
            # Each serves some before it is replaced itself.
            eventually(
                lambda: daemon.status()["counters"]["handed_off"] > SHARE, "the new one serves"
            )
        load.send_signal(signal.SIGTERM)
        output, errors = load.communicate(timeout=SECONDS + 60)
        self.assertEqual(load.returncode, 0, errors.decode() + output.decode())
        report = json.loads(output)
        self.assertEqual(report["completed"], report["started"])
        self.assertEqual(sum(report["failures"].values()), 0)
        self.assertEqual(sum(report["denials"].values()), 0)
        self.assertNotIn("gone", demo.text(), "the backend has noticed nothing")
        daemon.stop()
        self.assertEqual(sum(one["accepted"] for one in daemon.all_counters()), report["started"])
        self.keep_figures(report, daemon)

    def keep_figures(self, report, daemon):
        folder = os.environ.get("TCPMUX_FIGURES_DIR")
        if not folder:
            return
        figures = {
            "engine": self.engine,
            "upgrades": len(daemon.pids) - 1,
            "connections": report["started"],
            "failures": sum(report["failures"].values()) + sum(report["denials"].values()),
            "passed_on": sum(one["passed_on"] for one in daemon.all_counters()),
            "reply_us": report["latency_us"]["reply"],
        }
        path = os.path.join(folder, f"upgrades-{self.engine}.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=2)


@on_both_engines
class TakenOver(UpgradeTest):
    def test_a_backend_notices_nothing(self):
        daemon = self.start()
        backend = self.backend("echo")
        service = self.serve(backend)
        daemon.upgrade()
        for _ in range(20):
            self.assert_served(daemon.address)
        daemon.upgrade_by_signal()
        for _ in range(20):
            self.assert_served(daemon.address)
        service.stop()
        self.assertTrue(self.says_nothing(backend))
        self.assertEqual([one["names"] for one in daemon.status()["backends"]], [["echo"]])

    def test_sessions_go_on(self):
        daemon = self.start()
        self.demo("echo")
        client = self.connect(daemon.address)
        self.assertEqual(client.ask("echo"), b"+\r\n")
        for number in range(3):
            daemon.upgrade()
            client.send(b"%d\n" % number)
            self.assertEqual(client.read_line(), b"%d\n" % number)

    def test_what_waits_in_a_lane_is_received_once(self):
        daemon = self.start()
        backend = self.backend("echo", window=64, batch=4)
        clients = [self.connect(daemon.address) for _ in range(30)]
        for client in clients:
            self.assertEqual(client.ask("echo"), b"+\r\n")
        daemon.upgrade()
        ports = [handed.socket.getpeername()[1] for handed in backend.receive_all(30)]
        self.assertEqual(sorted(ports), sorted(client.name[1] for client in clients))

    def test_what_waits_in_a_lane_is_taken_back_by_the_new_one(self):
        """The backend dies after the upgrade; what it had not received goes to another."""
        daemon = self.start({"handoff": {"deadline_ms": 60_000}, **ECHO})
        first = self.backend_process("A", "echo", window=64)
        first.signal(signal.SIGSTOP)
        clients = [self.connect(daemon.address) for _ in range(10)]
        for client in clients:
            self.assertEqual(client.ask("echo"), b"+\r\n")
        daemon.upgrade()
        self.serve(self.backend("echo", window=64), b"B")
        first.kill()
        answers = [client.read_to_end()[0] for client in clients]
        self.assertEqual(answers, [b"B"] * len(clients))

    def test_a_backend_that_ends_is_missed(self):
        daemon = self.start()
        backend = self.backend("echo")
        daemon.upgrade()
        backend.close()
        eventually(lambda: not daemon.status()["backends"], "the backend is gone")
        self.assert_refused(daemon.address, b"echo\r\n", b"-unavailable")

    def test_new_backends_register_with_the_new_one(self):
        daemon = self.start()
        daemon.upgrade()
        self.serve(self.backend("other"))
        self.assert_served(daemon.address, "other")

    def test_windows_are_full_on_both_sides(self):
        """A full lane stays full: the new one knows what the old one sent."""
        config = {"handoff": {"room_wait_ms": 50, "stall_ms": 60_000, "deadline_ms": 500}, **ECHO}
        daemon = self.start(config, shards=1)
        backend = self.backend("echo", window=5, lanes=1)
        for _ in range(5):
            self.assertEqual(self.connect(daemon.address).ask("echo"), b"+\r\n")
        daemon.upgrade()
        self.assert_refused(daemon.address, b"echo\r\n", b"-busy")
        backend.receive()
        self.assertEqual(self.connect(daemon.address).ask("echo"), b"+\r\n")


@on_both_engines
class Handshakes(UpgradeTest):
    def test_they_are_finished(self):
        """Half a line before the upgrade, the rest after it."""
        daemon = self.start(PATIENT)
        backend = self.backend("echo", window=64)
        clients = [self.connect(daemon.address) for _ in range(8)]
        for client in clients:
            client.send_and_wait_until_read(b"ec")
        daemon.upgrade()
        for client in clients:
            client.send(b"ho\r\nearly")
            self.assertEqual(client.read_line(), b"+\r\n")
            client.half_close()
        for handed in backend.receive_all(8):
            self.assertEqual(handed.read_to_end(), b"early")
        self.assertEqual(daemon.wait_gone(daemon.pid), 0)

    def test_they_go_on_through_several(self):
        """The first process passes its client to the second, which has left by then, too."""
        daemon = self.start(PATIENT)
        client = self.connect(daemon.address)
        client.send_and_wait_until_read(b"ec")
        daemon.upgrade()
        daemon.upgrade()
        daemon.upgrade()
        self.serve(self.backend("echo"))
        client.send(b"ho\r\n")
        self.assertEqual(client.read_line(), b"+\r\n")
        self.assertEqual(client.read_to_end()[0], b"served\r\n")
        for pid in daemon.pids[:-1]:
            self.assertEqual(daemon.wait_gone(pid), 0)

    def test_refusals_and_lists(self):
        daemon = self.start(PATIENT)
        unknown, wants_help, nobody = (self.connect(daemon.address) for _ in range(3))
        for client, text in [(unknown, b"no"), (wants_help, b"he"), (nobody, b"ot")]:
            client.send_and_wait_until_read(text)
        daemon.upgrade()
        unknown.send(b"pe\r\n")
        self.assertRegex(unknown.read_line(), rb"\A-unknown")
        wants_help.send(b"lp\r\n")
        self.assertEqual(wants_help.read_to_end()[0], b"echo\r\nother\r\n")
        nobody.send(b"her\r\n")
        self.assertRegex(nobody.read_line(), rb"\A-unavailable")

    def test_parked_clients(self):
        """Told '+', their backend lost, nobody else there: they wait on in the new one."""
        daemon = self.start({"handoff": {"deadline_ms": 60_000}, **ECHO})
        first = self.backend_process("A", "echo", window=64)
        first.signal(signal.SIGSTOP)
        clients = [self.connect(daemon.address) for _ in range(6)]
        for client in clients:
            self.assertEqual(client.ask("echo"), b"+\r\n")
        first.kill()
        eventually(
            lambda: daemon.status()["counters"]["taken_back"] == 6, "they are taken back"
        )
        daemon.upgrade()
        self.assertEqual(daemon.wait_gone(daemon.pid), 0)
        self.serve(self.backend("echo", window=64), b"B")
        answers = [client.read_to_end()[0] for client in clients]
        self.assertEqual(answers, [b"B"] * len(clients))


@on_both_engines
class Changed(UpgradeTest):
    """The new one reads the configuration anew."""

    def test_services_and_shards(self):
        daemon = self.start({"shards": 1, **ECHO}, shards=None)
        self.serve(self.backend("echo", window=64))
        for shards in [3, 1, 2]:
            self.write_config({"shards": shards, "services": {"echo": {"message": "hi"}}})
            daemon.upgrade()
            self.assertEqual(daemon.status()["shards"], shards)
            for _ in range(10):
                self.assert_served(daemon.address)
            self.assert_refused(daemon.address, b"other\r\n", b"-unknown")

    def test_addresses(self):
        daemon = self.start({"listen": ["127.0.0.1:0", "127.0.0.2:0"], **ECHO}, listen=())
        self.serve(self.backend("echo", window=64))
        kept, dropped = daemon.addresses
        self.write_config({"listen": ["127.0.0.1:0", "127.0.0.3:0"], **ECHO})
        daemon.upgrade()
        now = daemon.status()["listening"]
        self.assertEqual(now[0], f"127.0.0.1:{kept[1]}")
        added = (now[1].rsplit(":", 1)[0], int(now[1].rsplit(":", 1)[1]))
        self.assertEqual(daemon.wait_gone(daemon.pid), 0)
        self.assert_served(kept)
        self.assert_served(added)
        # It is served for a moment more.
        eventually(lambda: self.is_closed(dropped), "nobody listens there any more")

    def test_the_binary(self):
        """A new file is renamed over the old one, as a package manager does."""
        program = os.path.join(self.directory, "tcpmuxd")
        shutil.copy(binary("tcpmuxd"), program)
        daemon = self.start(program=program)
        self.serve(self.backend("echo"))
        shutil.copy(binary("tcpmuxd"), program + ".new")
        os.rename(program + ".new", program)
        daemon.upgrade()
        self.assertEqual(os.stat(f"/proc/{daemon.current}/exe").st_ino, os.stat(program).st_ino)
        self.assert_served(daemon.address)


@on_both_engines
class Refused(UpgradeTest):
    """The new one cannot take over, so the old one goes on."""

    def goes_on(self, daemon, why):
        backend = self.backend("echo", window=64)
        self.serve(backend)
        self.assert_served(daemon.address)
        reply = daemon.ask("upgrade")
        self.assertFalse(reply["ok"])
        self.assertRegex(reply["error"], why)
        daemon.wait_for_text(why)
        self.assertEqual(daemon.status()["state"], "serving")
        self.assertEqual(daemon.status()["pid"], daemon.pid)
        for _ in range(10):
            self.assert_served(daemon.address)
        with open(self.registry + ".lock", encoding="ascii") as lock:
            self.assertEqual(int(lock.read()), daemon.pid)
        self.assertEqual(len(daemon.status()["backends"]), 1)

    def test_a_wrong_configuration(self):
        daemon = self.start()
        self.write_config("listen = 5\n")
        self.goes_on(daemon, r"tcpmuxd.toml:1:10: listen")
        self.write_config(ECHO)
        daemon.upgrade()
        self.assert_served(daemon.address)

    def test_another_registry(self):
        here = {"registry": {"path": self.registry}, **ECHO}
        daemon = self.start(here, registry=None)
        self.write_config({"registry": {"path": self.registry + "2"}, **ECHO})
        self.goes_on(daemon, "that needs a restart")

    def test_a_binary_that_is_none(self):
        self.goes_on(self.script("no program at all\n"), "cannot start .*tcpmuxd: Exec format")

    def test_a_binary_that_is_gone(self):
        daemon = self.script("")
        os.unlink(daemon.command[0])
        self.goes_on(daemon, "cannot start .*tcpmuxd: No such file")

    def test_a_binary_that_ends_at_once(self):
        self.goes_on(self.script("#!/bin/sh\nexit 7\n"), "it ended with status 7")

    def test_a_binary_that_is_killed(self):
        self.goes_on(self.script("#!/bin/sh\nkill -9 $$\n"), "Killed")

    def test_it_may_be_tried_again_and_again(self):
        daemon = self.script("#!/bin/sh\nexit 1\n")
        before = len(daemon.descriptors_of_current())
        for _ in range(5):
            self.assertFalse(daemon.ask("upgrade")["ok"])
        eventually(
            lambda: len(daemon.descriptors_of_current()) == before, "no descriptor is left"
        )
        os.rename(daemon.command[0] + ".old", daemon.command[0])
        daemon.upgrade()


@on_both_engines
class Meanwhile(UpgradeTest):
    def test_two_at_once(self):
        """A second one that is asked for while the first is under way is refused."""
        daemon, gate = self.gated()
        with self.upgrade_under_way(daemon) as first:
            second = daemon.ask("upgrade")
            self.assertEqual((second["ok"], second["error"]), (False, "an upgrade is under way"))
            self.assertFalse(daemon.ask("reload")["ok"])
            with open(gate, "w", encoding="ascii") as writer:
                writer.write("go\n")
            reply = first.reply()
        self.assertTrue(reply["ok"], reply)
        daemon.pids.append(reply["new_pid"])
        eventually(lambda: daemon.status()["pid"] == daemon.current, "the new one answers")

    def test_the_end_while_one_is_under_way(self):
        daemon = self.script("#!/bin/sh\nexec sleep 600\n")
        with self.upgrade_under_way(daemon):
            os.kill(daemon.pid, signal.SIGTERM)
            self.assertEqual(daemon.wait_gone(daemon.pid), 0)
        daemon.stopped = True
        daemon.kill()

    def test_a_crash_while_one_is_under_way(self):
        """The new one has nobody to take over from, and ends with a reason."""
        daemon, gate = self.gated()
        with self.upgrade_under_way(daemon):
            daemon.stopped = True
            os.kill(daemon.pid, signal.SIGKILL)
            daemon.wait_gone(daemon.pid)
        with open(gate, "w", encoding="ascii") as writer:
            writer.write("go\n")
        daemon.wait_for_line("the daemon to be replaced has ended")

    def upgrade_under_way(self, daemon):
        """The connection on which the reply will come."""
        control = ControlClient(daemon.control)
        self.addCleanup(control.close)
        control.begin("upgrade")
        eventually(lambda: daemon.status()["state"] == "upgrading", "it is under way")
        return control

    def gated(self):
        """A daemon whose next binary waits until something is written into a FIFO."""
        gate = os.path.join(self.directory, "gate")
        os.mkfifo(gate)
        daemon = self.script(f'#!/bin/sh\nread line < {gate}\nexec "$0.old" "$@"\n')
        return daemon, gate


if __name__ == "__main__":
    main()
