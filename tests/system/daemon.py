"""tcpmuxd as a child process: started with a configuration, stopped with a verdict."""

import json
import os
import re
import signal

from processes import WRAPPER, Child, binary, eventually

_TROUBLE = re.compile(
    r"^.*(?:(?:Address|Leak|Thread|Memory)Sanitizer|runtime error:|SUMMARY: Undefined"
    r"|ERROR SUMMARY: [1-9]|Invalid (?:read|write)|file descriptor .* was closed).*$",
    re.MULTILINE,
)
_VALGRIND_DESCRIPTORS = re.compile(r"FILE DESCRIPTORS: (\d+) open \((\d+) (?:std|inherited)\)")
_ADDRESS = re.compile(r"^(?:\[(?P<v6>[^\]]+)\]|(?P<v4>[^:]+)):(?P<port>\d+)$")


def toml(config):
    """A configuration as TOML. JSON's strings, numbers, booleans and lists are TOML's too."""
    lines = []

    def write(table, path):
        plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
        if path and (plain or not table):
            lines.append("[" + ".".join(json.dumps(part) for part in path) + "]")
        lines.extend(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in plain.items())
        for key, value in table.items():
            if isinstance(value, dict):
                write(value, [*path, key])

    write(config, [])
    return "\n".join(lines) + "\n"


def parse_address(text):
    """("127.0.0.1", 7) of "127.0.0.1:7", ("::1", 7) of "[::1]:7"."""
    match = _ADDRESS.match(text)
    if not match:
        raise AssertionError(f"not an address: {text!r}")
    return (match["v6"] or match["v4"], int(match["port"]))


def daemon_command(config_path, *, engine, listen, registry, shards, flags):
    command = [*WRAPPER, binary("tcpmuxd"), "--config", config_path]
    for address in listen:
        command += ["--listen", address]
    options = {"--engine": engine, "--registry": registry, "--shards": shards}
    for name, value in options.items():
        if value is not None:
            command += [name, value]
    return [*command, *flags]


class Daemon(Child):
    """A tcpmuxd. Whoever makes one calls stop(), or expects its end by wait_exit()."""

    def __init__(self, command, *, launcher=(), **child_options):
        super().__init__([*launcher, *command], **child_options)
        self.start_line = None
        self.addresses = []
        self.stopped = False

    def wait_started(self):
        """Waits for the line that says that it is ready, and reads it."""
        self.start_line = self.wait_for_line(r"\bstarted\b")
        listening = re.search(r"listening on (\S+:\d+(?:, ?\S+:\d+)*)", self.start_line)
        if not listening:
            raise AssertionError(f"no address in {self.start_line!r}")
        self.addresses = [parse_address(text.strip()) for text in listening[1].split(",")]
        return self

    @property
    def address(self):
        return self.addresses[0]

    @property
    def engine(self):
        return re.search(r"engine (\w+)", self.start_line)[1]

    @property
    def shards(self):
        return int(re.search(r"(\d+) shards?\b", self.start_line)[1])

    def counters(self):
        since = self.mark()
        self.signal(signal.SIGUSR1)
        return parse_counters(self.wait_for_line("counters:", since))

    def settled_descriptors(self):
        """Its open descriptors, when it is done with all that it was told before."""
        self.counters()
        return self.descriptors()

    def wait_counter(self, name, at_least):
        """Waits until a counter has come to `at_least`, and gives all of them."""

        def there():
            counters = self.counters()
            return counters if counters[name] >= at_least else None

        return eventually(there, f"counter {name} >= {at_least}: {self.counters()}")

    def stop(self):
        """Asks it to end, and checks that it ended well."""
        if self.stopped:
            return
        try:
            if self.running():
                self.signal(signal.SIGTERM)
            self.expect_exit()
        finally:
            self.kill()

    def crash(self):
        """kill -9, which is no fault of its own."""
        self.stopped = True
        self.kill()

    def expect_exit(self, code=0):
        self.stopped = True
        actual = self.wait_exit()
        if actual != code:
            raise AssertionError(f"exit code {actual}, expected {code}\n{self.text()[-20000:]}")
        self.check_clean()
        if code == 0:
            self.check_descriptors()
            self.check_balance()

    def check_clean(self):
        """What sanitizers and valgrind say."""
        text = self.text()
        trouble = _TROUBLE.search(text)
        if trouble:
            raise AssertionError(f"the daemon is not clean: {trouble[0]}")

    def check_descriptors(self):
        """What valgrind --track-fds=yes says."""
        for open_count, inherited in _VALGRIND_DESCRIPTORS.findall(self.text()):
            if open_count != inherited:
                raise AssertionError(f"{open_count} descriptors left open, {inherited} inherited")

    def check_balance(self):
        """Every accepted connection has ended in exactly one way."""
        counters = self.last_counters()
        if counters is not None:
            self.check_one_balance(counters)

    def check_one_balance(self, counters):
        handed_off = counters["handed_off"] - counters["taken_back"]
        others = ["refused", "helped", "timed_out", "peer_gone", "closed_without_backend"]
        ended = handed_off + sum(counters[name] for name in others)
        ended += counters["passed_on"]
        began = counters["accepted"] + counters["inherited"]
        if ended != began:
            raise AssertionError(f"{began} began, {ended} ended: {counters}")

    def last_counters(self):
        """The counters that it logs at its end; none where the log level keeps them back."""
        lines = [line for line in self.text().splitlines() if "counters:" in line]
        return parse_counters(lines[-1]) if lines else None


def parse_counters(line):
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", line)}


# Gives the descriptors argv[1] ("4,5") to argv[2:] the way systemd passes sockets: as numbers 3 and
# up, with LISTEN_PID naming the process itself.
SYSTEMD_LAUNCHER = """
import fcntl, os, sys
numbers = [int(number) for number in sys.argv[1].split(",")]
copies = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3 + len(numbers)) for number in numbers]
for number in numbers:
    os.close(number)
for place, copy in enumerate(copies, 3):
    os.dup2(copy, place)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(numbers)))
os.execvp(sys.argv[2], sys.argv[2:])
"""


def registry_path_in(directory):
    path = os.path.join(directory, "r.sock")
    if len(path) > 100:  # sun_path has room for 107
        raise RuntimeError(f"a Unix socket's path cannot be as long as {path}: set TMPDIR")
    return path
