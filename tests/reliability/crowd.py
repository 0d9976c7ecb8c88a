"""Idle clients that say half a name and stay: a flood for the descriptor limit. Run as a process,
because a process holds only so many sockets: it says "there" when all have tried to connect, and
holds them until its input ends."""

import socket
import subprocess
import sys

from place import Child

_SOURCES = 200  # addresses of 127.0.0.0/8, so that ports never run out
_CONNECT_TIMEOUT_S = 2.0


def hold(address, count):
    held = []
    for number in range(count):
        connection = socket.socket()
        connection.settimeout(_CONNECT_TIMEOUT_S)
        connection.bind((f"127.0.1.{1 + number % _SOURCES}", 0))
        try:
            connection.connect(address)
            connection.sendall(b"hal")
        except OSError:  # nobody took it, or it has been refused already
            connection.close()
            continue
        held.append(connection)
    print("there", flush=True)
    sys.stdin.read()


class Crowd(Child):
    """So many of them, in a process of their own."""

    def __init__(self, address, count):
        words = [sys.executable, "-B", __file__, address[0], str(address[1]), str(count)]
        super().__init__(words, stdin=subprocess.PIPE)

    def is_there(self):
        return "there" in self.text()

    def leave(self):
        self.close_stdin()
        self.wait_exit()


if __name__ == "__main__":
    hold((sys.argv[1], int(sys.argv[2])), int(sys.argv[3]))
