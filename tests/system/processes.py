"""Child processes: their output is kept and waited upon, and none outlives the tests."""

import ctypes
import os
import re
import shlex
import signal
import subprocess
import threading
import time

# A command that the daemon runs under, such as "valgrind --track-fds=yes --error-exitcode=99".
WRAPPER = shlex.split(os.environ.get("TCPMUX_WRAPPER", ""))
# How long anything may take that ought to happen at once. Never part of what is measured.
PATIENCE_S = 30.0 * (4 if WRAPPER else 1)

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def eventually(condition, what):
    """Waits until `condition()` is true, and gives its value."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"never came true: {what}")
        time.sleep(0.005)


def binary(name):
    """The path of one of our programs."""
    folder = os.environ.get("TCPMUX_BIN_DIR")
    if not folder:
        raise RuntimeError("TCPMUX_BIN_DIR must name the folder that holds tcpmuxd")
    return os.path.join(folder, name)


def stat_fields(pid):
    """What /proc/PID/stat says behind the program's name: its state first (proc(5))."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        return stat.read().rsplit(")", 1)[1].split()


def die_with_parent():
    """Has the calling process killed when the one that started it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """A process, with all that it writes to stdout and stderr."""

    def __init__(self, command, *, prepare=None, env=None, pass_fds=(), stdin=subprocess.DEVNULL):
        def in_child():
            if prepare:
                prepare()
            die_with_parent()

        self.command = [str(word) for word in command]
        self.process = subprocess.Popen(
            self.command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=in_child,
            pass_fds=pass_fds,
            env=dict(os.environ, **(env or {})),
        )
        self.pid = self.process.pid
        self._output = bytearray()
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        while True:
            chunk = os.read(self.process.stdout.fileno(), 65536)
            with self._changed:
                self._output += chunk
                self._ended = not chunk
                self._changed.notify_all()
            if not chunk:
                return

    def text(self, since=0):
        with self._changed:
            return self._output[since:].decode("utf-8", "replace")

    def mark(self):
        """Where the output ends now: `since` of the calls below."""
        with self._changed:
            return len(self._output)

    def wait_for_text(self, pattern, since=0):
        """Waits until the output matches the regular expression, and gives the match."""
        expression = re.compile(pattern, re.MULTILINE)
        deadline = time.monotonic() + PATIENCE_S
        with self._changed:
            while True:
                text = self._output[since:].decode("utf-8", "replace")
                match = expression.search(text)
                if match:
                    return match
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    why = "its output ended" if self._ended else "patience ran out"
                    raise AssertionError(f"{why} without {pattern!r}: {self.command}\n{text}")
                self._changed.wait(left)

    def wait_for_line(self, pattern, since=0):
        """The first whole line in which `pattern` is found."""
        return self.wait_for_text(rf"^[^\n]*(?:{pattern})[^\n]*(?=\n)", since).group(0)

    def write(self, data):
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def close_stdin(self):
        self.process.stdin.close()

    def signal(self, number):
        os.kill(self.pid, number)

    def running(self):
        return self.process.poll() is None

    def wait_exit(self):
        """Waits for the end, and gives the exit code (negative: killed by that signal)."""
        try:
            code = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"does not end: {self.command}\n{self.text()}") from error
        self._reader.join(PATIENCE_S)
        return code

    def kill(self):
        """kill -9, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(PATIENCE_S)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass

    def descriptors(self):
        """Its open descriptors, each with what it is."""
        folder = f"/proc/{self.pid}/fd"
        found = {}
        for name in os.listdir(folder):
            try:
                found[int(name)] = os.readlink(os.path.join(folder, name))
            except FileNotFoundError:  # closed meanwhile
                pass
        return found

    def wait_for_descriptors(self, before):
        """Waits until it has exactly those that it had before."""
        deadline = time.monotonic() + PATIENCE_S
        while (now := self.descriptors()) != before:
            if time.monotonic() > deadline:
                gone, new = dict(before.items() - now.items()), dict(now.items() - before.items())
                raise AssertionError(f"descriptors that were and are not: {gone}; new: {new}")
            time.sleep(0.005)

    def cpu_seconds(self):
        """User and system time that it has used so far."""
        fields = stat_fields(self.pid)
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Demo(Child):
    """tcpmux-demo, registered."""

    def __init__(self, registry, *services, flags=()):
        command = [binary("tcpmux-demo"), "--registry", registry, "--count", *flags, *services]
        super().__init__(command)
        self.wait_serving()

    def wait_serving(self, since=0):
        self.wait_for_line("serving", since)

    def received(self, service):
        """How many sockets it has received for `service`."""
        since = self.mark()
        self.signal(signal.SIGUSR1)
        line = self.wait_for_line(rf"received {re.escape(service)} \d+", since)
        return int(re.search(r"(\d+)\s*$", line).group(1))
