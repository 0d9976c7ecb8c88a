"""The peers, as Debian has them: how each is started from its file in bench/peers."""

import getpass
import os

from suite.place import PEERS, free_port
from suite.processes import Child, Detached
from suite.servers import Subject, start_backend

SELECT_MAX = 400  # sslh-select: two of select()'s 1,024 descriptors for a connection
XINETD_MAX = 200
INETD_MAX = 8  # its backlog is 10


def proxy(name, file, command, **abilities):
    """A server that forwards to the backend's port; `command` is called with place and file."""

    def start(place, running):
        running.port = free_port()
        pid, backend_port = start_backend(place, running, place.client_core)
        path = running.template(
            file,
            port=running.port,
            backend_port=backend_port,
            connections=place.descriptors // 2 - 100,
            descriptors=place.descriptors,
            modules=PEERS / "usr/lib/nginx/modules",
        )
        child = running.add(Child(command(place, path), [place.server_core], "stderr"))
        running.server, running.backends = child.pid, [pid]

    return Subject(name, start, **abilities)


HAPROXY = proxy(
    "HAProxy",
    "haproxy.cfg",
    lambda place, path: [place.peer("haproxy"), "-db", "-f", path],
    remark="routes by the first line; the '+' is the backend's; copies all bytes",
)
NGINX = proxy(
    "nginx",
    "nginx.conf",
    lambda place, path: [place.peer("nginx"), "-e", "stderr", "-c", path],
    remark="does not route: Debian's stream module cannot; plain proxying",
)
SSLH = proxy(
    "sslh",
    "sslh.cfg",
    lambda place, path: [place.peer("sslh-select"), f"-F{path}"],
    at_once_max=SELECT_MAX,
    large_share=0.1,  # 40 ms each: it waits for acknowledgements
    remark="routes by a regular expression; select(); copies all bytes",
)


def start_xinetd(place, running):
    running.port = free_port()
    path = running.template("xinetd.conf", port=running.port, user=getpass.getuser())
    command = [place.peer("xinetd"), "-dontfork", "-f", path]
    command += ["-pidfile", running.folder / "xinetd.pid"]
    running.server = running.add(Child(command, [place.server_core], "stderr")).pid


# Its port comes from /etc/services and nowhere else, so it sees one of its own there. Who is not
# root needs a namespace of users for that, in which he is.
NAMESPACES = ["--mount"] if os.geteuid() == 0 else ["--mount", "--map-root-user"]
START_INETD = 'mount --bind "$1" /etc/services && exec "$2" -R 1000000 "--pidfile=$3" "$4"'


def start_inetd(place, running):
    running.port = free_port()
    services = running.template("services", port=running.port)
    config = running.template("inetd.conf")
    pid_file = running.folder / "inetd.pid"
    command = ["unshare", *NAMESPACES, "sh", "-c", START_INETD, "sh", services]
    command += [place.peer("inetutils-inetd"), pid_file, config]
    starter = running.add(Child(command, [place.server_core], "stderr"))
    starter.process.wait(10)
    running.children.remove(starter)
    starter.stop()
    running.server = running.add(Detached(pid_file)).pid


FORKS = "a process for each connection"
XINETD = Subject("xinetd", start_xinetd, False, False, XINETD_MAX, FORKS)
SLEEPS = f"{FORKS}; sleeps for a second when a child's end interrupts its waiting"
INETD = Subject("inetutils-inetd", start_inetd, False, False, INETD_MAX, SLEEPS)

PROXIES = [HAPROXY, NGINX, SSLH]
FORKING = [XINETD, INETD]
