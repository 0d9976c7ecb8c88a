"""Guards what is promised while backends are killed and stopped at random under load, descriptors
run out, and floods come: short forms of the programs in tests/reliability, which tell the figures.
Nobody is lost and all is as before; no time is asserted. The figures are written to
$TCPMUX_FIGURES_DIR where that is set. TCPMUX_LONG_S makes each part take so many seconds."""

import os
import sys

from harness import Child, SystemTest, main, on_both_engines

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reliability"))

# pylint: disable=wrong-import-position
import descriptor_limit  # noqa: E402
import flood  # noqa: E402
import kill_backends  # noqa: E402
import kill_successors  # noqa: E402
import kill_workers  # noqa: E402
import place  # noqa: E402
import processes  # noqa: E402
import stop_backends  # noqa: E402

LONG_S = float(os.environ.get("TCPMUX_LONG_S", "0"))


@on_both_engines
class Reliability(SystemTest):
    def setUp(self):
        super().setUp()
        if processes.WRAPPER:
            self.skipTest("thousands of connections a second are too many for it")

    def holds(self, name, figures):
        folder = os.environ.get("TCPMUX_FIGURES_DIR")
        if folder:
            os.makedirs(folder, exist_ok=True)
            place.write_json(os.path.join(folder, f"{name}-{self.engine}.json"), figures)
        self.assertEqual(figures["broken"], [], figures)

    def test_backends_are_killed(self):
        figures = kill_backends.run(self.engine, LONG_S or 6, rate=1000)
        self.holds("kill_backends", figures)
        self.assertGreater(figures["kills"], 0)
        self.assertGreater(figures["taken_back"], 0, "no queue was long enough to prove anything")

    def test_workers_are_killed(self):
        figures = kill_workers.run(self.engine, LONG_S or 4, rate=1000)
        self.holds("kill_workers", figures)
        self.assertGreater(figures["kills"], 0)

    def test_successors_are_killed(self):
        figures = kill_successors.run(self.engine, LONG_S or 5, rate=500)
        self.holds("kill_successors", figures)
        self.assertGreater(figures["successors_killed"], 0)

    def test_backends_are_stopped(self):
        figures = stop_backends.run(self.engine, LONG_S or 8, rate=200)
        self.holds("stop_backends", figures)
        self.assertGreater(figures["longer_than_a_stall"], 0)
        self.assertGreater(figures["taken_back"], 0, "no queue was long enough to prove anything")

    def test_floods(self):
        self.holds("flood", flood.run(self.engine, LONG_S or 0.5, rate=1000))

    def test_descriptors_run_out(self):
        limits = tuple(descriptor_limit.LIMITS) if LONG_S else (64, 1024)
        self.holds("descriptor_limit", descriptor_limit.run(self.engine, LONG_S or 1, limits=limits))


class AllByOneCommand(SystemTest):
    def test_figures_and_a_table(self):
        """What it writes, of the shortest part alone."""
        program = os.path.join(place.ROOT, "tests", "reliability", "run_all.py")
        words = ["--out", self.directory, "--only", "kill_workers", "--seconds", 1]
        run = self.keep(Child([program, *words, "--engine", "epoll"]))
        self.assertEqual(run.wait_exit(), 0, run.text())
        with open(os.path.join(self.directory, "figures.md"), encoding="utf-8") as file:
            self.assertRegex(file.read(), r"\AAll is as promised.\n[^$]*\| kill -9 of workers .* epoll")
        self.assertTrue(os.path.exists(os.path.join(self.directory, "kill_workers-epoll.json")))


if __name__ == "__main__":
    main()
