"""Guards what a newcomer does first: tools/up, and the examples of README.md as they stand there."""

import os
import re
import signal
import sys

from harness import Child, SystemTest, binary, exchange, main

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def readme_example(language, containing):
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
        blocks = re.findall(rf"```{language}\n(.*?)```", file.read(), re.DOTALL)
    return next(block for block in blocks if containing in block)


class FirstMinute(SystemTest):
    def test_up_serves_what_it_says(self):
        up = self.keep(Child([os.path.join(ROOT, "tools", "up")]))
        ready = up.wait_for_text(r"up: ready on 127\.0\.0\.1:(\d+)")
        address = ("127.0.0.1", int(ready[1]))
        self.assertEqual(exchange(address, b"HELP\r\n")[0], b"chat\r\ndaytime\r\necho\r\nwhoami\r\n")
        self.assertRegex(exchange(address, b"whoami\r\n")[0], rb"\A\+this is how I see you\r\nyou are")
        self.assertRegex(exchange(address, b"daytime\n")[0], rb"\A\+\r\n\w+day, ")
        client = self.connect(address)
        client.send(b"echo\r\ngood morning\r\n")
        self.assertEqual(client.read_line(), b"+what you type comes back\r\n")
        self.assertEqual(client.read_line(), b"good morning\r\n")
        up.signal(signal.SIGTERM)
        self.assertEqual(up.wait_exit(), 0)
        self.assertIn("up: stopped", up.text())

    def test_the_python_backend_of_the_readme_serves(self):
        daemon = self.start_daemon({"services": {"hello": {}}})
        source = readme_example("python", "recv_fds").replace(
            "/run/tcpmux/registry.sock", self.registry
        )
        self.keep(Child([sys.executable, "-c", source]))
        daemon.wait_for_line("serves hello")
        # One lane: the connections of the other shard are passed to it.
        for _ in range(16):
            self.assertEqual(exchange(daemon.address, b"hello\r\n")[0], b"+\r\nhello\r\n")

    def test_the_configuration_of_the_readme_is_one(self):
        path = self.write_config(readme_example("toml", "listen").replace("www-data", "root"))
        check = self.keep(Child([binary("tcpmuxd"), "--config", path, "--check-config"]))
        self.assertEqual(check.wait_exit(), 0, check.text())


if __name__ == "__main__":
    main()
