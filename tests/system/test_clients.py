"""Guards that people reach us with the programs they have: Debian's telnet, nc (openbsd) and
socat, asking for a service and for HELP, with CRLF or bare LF."""

import shutil
import subprocess

from harness import Child, SystemTest, main, on_both_engines


@on_both_engines
class Programs(SystemTest):
    def setUp(self):
        super().setUp()
        services = {"echo": {"message": "echo ready"}, "spare": {}}
        host, port = self.start_daemon({"services": services}).address
        self.host, self.port = host, str(port)
        self.demo("echo")

    def run_program(self, *command):
        if not shutil.which(command[0]):
            self.skipTest(f"{command[0]} is not installed")
        return self.keep(Child(command, stdin=subprocess.PIPE))

    def converse(self, program):
        """Types two lines, each after what it waits for, and reads the echo."""
        program.write(b"echo\n")
        program.wait_for_line(r"^\+echo ready")
        program.write(b"hello, is it me\n")
        program.wait_for_line(r"^hello, is it me")

    def ask_for_help(self, program):
        """Types HELP, reads the names, and sees the program end because the server closed."""
        program.write(b"HELP\n")
        program.wait_for_line("^spare")
        program.close_stdin()
        program.wait_exit()
        lines = program.text().splitlines()
        self.assertIn("echo", lines)
        self.assertEqual(lines[lines.index("echo") + 1], "spare")

    def test_telnet_echo(self):
        program = self.run_program("telnet", self.host, self.port)
        self.converse(program)

    def test_telnet_help(self):
        self.ask_for_help(self.run_program("telnet", self.host, self.port))

    def test_nc_echo(self):
        self.converse(self.run_program("nc", self.host, self.port))

    def test_nc_help(self):
        self.ask_for_help(self.run_program("nc", self.host, self.port))

    def test_nc_with_everything_piped_in(self):
        program = self.run_program("nc", "-N", self.host, self.port)
        program.write(b"echo\none\ntwo\n")
        program.close_stdin()
        self.assertEqual(program.wait_exit(), 0)
        self.assertEqual(program.text(), "+echo ready\r\none\ntwo\n")

    def test_socat_echo(self):
        self.converse(self.run_program("socat", "-", f"TCP4:{self.host}:{self.port}"))

    def test_socat_echo_with_crlf(self):
        self.converse(self.run_program("socat", "-", f"TCP4:{self.host}:{self.port},crnl"))

    def test_socat_help(self):
        self.ask_for_help(self.run_program("socat", "-", f"TCP4:{self.host}:{self.port},crnl"))


if __name__ == "__main__":
    main()
