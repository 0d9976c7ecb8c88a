"""Guards the choice of the engine: io_uring where the machine has it, epoll where it is refused
(seccomp, as in many containers), and the log says why."""

import ctypes
import errno
import struct
import unittest

from harness import SystemTest, main, why_no_io_uring

ECHO = {"services": {"echo": {}}}

IO_URING_SETUP, IO_URING_ENTER = 425, 426
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW = 0x00050000, 0x7FFF0000
BPF_LOAD_WORD, BPF_JUMP_IF_EQUAL, BPF_RETURN = 0x20, 0x15, 0x06

libc = ctypes.CDLL(None, use_errno=True)


def refuse(system_call, error):
    """What makes a process, and all that it runs, see `error` from the system call."""
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in [
            (BPF_LOAD_WORD, 0, 0, 0),  # the system call's number
            (BPF_JUMP_IF_EQUAL, 0, 1, system_call),
            (BPF_RETURN, 0, 0, SECCOMP_RET_ERRNO | error),
            (BPF_RETURN, 0, 0, SECCOMP_RET_ALLOW),
        ]
    )
    instructions = ctypes.create_string_buffer(program)
    # struct sock_fprog: a count, padding, a pointer
    filter_program = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    filter_buffer = ctypes.create_string_buffer(filter_program)

    def prepare():
        assert instructions
        if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
        if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter_buffer, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")

    return prepare


class Choice(SystemTest):
    @unittest.skipIf(why_no_io_uring(), why_no_io_uring())
    def test_auto_takes_io_uring(self):
        self.assertEqual(self.start_daemon(ECHO, engine="auto").engine, "io_uring")

    def falls_back(self, system_call, error, words):
        daemon = self.start_daemon(ECHO, engine="auto", prepare=refuse(system_call, error))
        self.assertEqual(daemon.engine, "epoll")
        self.assertRegex(daemon.start_line, words)
        self.serve(self.backend("echo"))
        for _ in range(20):
            self.assert_served(daemon.address)

    def test_refused_by_seccomp(self):
        """EPERM: the log names the errno and its likely causes."""
        self.falls_back(IO_URING_SETUP, errno.EPERM, r"(?i)(EPERM|Operation not permitted)")
        self.assertRegex(self.children[0].text(), r"seccomp|io_uring_disabled")

    def test_not_there_at_all(self):
        words = r"(?i)(ENOSYS|Function not implemented)"
        self.falls_back(IO_URING_SETUP, errno.ENOSYS, words)

    def test_no_memory(self):
        self.falls_back(IO_URING_SETUP, errno.ENOMEM, r"(?i)(ENOMEM|Cannot allocate memory)")

    def test_a_ring_that_cannot_be_used(self):
        """A ring is made, and then nothing can be done on it."""
        self.falls_back(IO_URING_ENTER, errno.EPERM, r"(?i)(EPERM|Operation not permitted)")

    def test_io_uring_alone_is_asked_for(self):
        """No silent fallback where the configuration says io_uring."""
        for system_call in [IO_URING_SETUP, IO_URING_ENTER]:
            with self.subTest(system_call=system_call):
                daemon = self.launch_daemon(
                    ECHO, engine="io_uring", prepare=refuse(system_call, errno.EPERM)
                )
                self.assertGreater(daemon.wait_exit(), 0)
                self.assertRegex(daemon.text(), r"(?i)io_uring.*(EPERM|not permitted)")
                self.assertNotIn("started", daemon.text())

    def test_epoll_alone_is_asked_for(self):
        prepare = refuse(IO_URING_SETUP, errno.EPERM)
        self.assertEqual(self.start_daemon(ECHO, engine="epoll", prepare=prepare).engine, "epoll")


if __name__ == "__main__":
    main()
