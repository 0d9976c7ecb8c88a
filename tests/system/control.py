"""tcpmux ctl, and the control socket itself."""

import dataclasses
import json
import os
import socket
import subprocess

from processes import PATIENCE_S, binary


def control_path_beside(registry):
    """Where a daemon has its control socket, unless it was told otherwise."""
    return registry.removesuffix(".sock") + ".control.sock"


@dataclasses.dataclass
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


def ctl(*words, prepare=None):
    """Runs tcpmux ctl to its end."""
    done = subprocess.run(
        [binary("tcpmux"), "ctl", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE_S,
        preexec_fn=prepare,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def as_nobody():
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)


class ControlClient:
    """A connection to a control socket: lines of JSON each way."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)  # waits where many do
        self.socket.settimeout(PATIENCE_S)
        self.file = self.socket.makefile("rb")

    def send(self, data):
        self.socket.sendall(data)

    def begin(self, command, **fields):
        self.send(json.dumps({"command": command, **fields}).encode() + b"\n")

    def ask(self, command, **fields):
        self.begin(command, **fields)
        return self.reply()

    def reply(self):
        """The next reply; nothing when the connection has ended."""
        try:
            line = self.file.readline()
        except ConnectionResetError:
            return None
        return json.loads(line) if line else None

    def close(self):
        self.file.close()
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self.close()


def ask(path, command):
    """The reply of the control socket to one command."""
    with ControlClient(path) as control:
        reply = control.ask(command)
    if reply is None:
        raise ConnectionResetError("the daemon left without a reply")
    return reply
