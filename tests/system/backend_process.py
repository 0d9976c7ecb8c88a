"""A backend as a process of its own, to be stopped and killed: it answers each client with its
tag, and stops receiving after --take clients if told so. --workers forks processes that share the
lanes. It says "registered", "took N" for each client, and "stopped"."""

import argparse
import os
import signal
import sys

from backend import Backend, Ended
from processes import Child, die_with_parent


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def work(backend, tag, take):
    taken = 0
    while take is None or taken < take:
        try:
            handed = backend.receive(3600)
        except Ended:
            return
        taken += 1
        try:
            handed.answer(tag.encode())
        except OSError:  # the client is gone
            handed.socket.close()
        say(f"took {taken} {os.getpid()}")
    say("stopped")
    while True:
        signal.pause()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("registry")
    parser.add_argument("tag")
    parser.add_argument("names", nargs="+")
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--lanes", type=int, default=0)
    parser.add_argument("--kind", type=int, default=0)
    parser.add_argument("--take", type=int)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    backend = Backend(
        options.registry,
        *options.names,
        window=options.window,
        lanes=options.lanes,
        kind=options.kind,
    )
    for _ in range(options.workers):
        worker = os.fork()
        if worker == 0:
            die_with_parent()
            work(backend, options.tag, options.take)
            os._exit(0)
        say(f"worker {worker}")
    say("registered")
    if options.workers:
        while True:
            signal.pause()
    work(backend, options.tag, options.take)


class BackendProcess(Child):
    """The process, registered."""

    def __init__(self, registry, tag, *names, **options):
        flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        super().__init__([sys.executable, "-B", __file__, registry, tag, *names, *flags])
        self.wait_for_line("^registered$")

    def workers(self):
        return [
            int(line.split()[1]) for line in self.text().splitlines() if line.startswith("worker ")
        ]


if __name__ == "__main__":
    main()
