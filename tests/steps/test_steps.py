"""The runner itself: what is red says why in few lines, nothing that failed passes, nothing that hangs is waited for."""

import contextlib
import io
import os
import pathlib
import tempfile
import time
import unittest

import ports
import table
from house import House
from run import COMPUTES, WAITS, WHY_LINES, Step, run
from why import explain

LIBTEST = """
running 3 tests
test a::holds ... ok
test b::breaks ... FAILED

failures:

---- b::breaks stdout ----

thread 'b::breaks' (77) panicked at log/tests/log/disk.rs:218:5:
assertion `left == right` failed: every one is there
  left: 3
 right: 4
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace

failures:
    b::breaks

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
"""


def all_of(steps, **changes):
    """(exit code, what was printed) of a run of these steps."""
    out = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(out):
        house = House(pathlib.Path(folder))
        code = run([Step(*step, **changes) for step in steps], house, pathlib.Path(folder))
    return code, out.getvalue()


class Why(unittest.TestCase):
    def test_a_failing_test_is_named_with_its_panic(self):
        lines = "\n".join(explain(LIBTEST, 40))
        self.assertEqual(lines.count("failed:"), 2, "the test, and what the assertion says")
        self.assertIn("failed: b::breaks", lines)
        self.assertIn("panicked at log/tests/log/disk.rs:218:5", lines)
        self.assertIn("right: 4", lines)
        self.assertNotIn("RUST_BACKTRACE", lines)

    def test_it_keeps_to_its_room_however_much_there_is(self):
        self.assertLessEqual(len(explain(LIBTEST * 200, 30)), 30)
        self.assertLessEqual(len(explain("line\n" * 9_000, 30)), 30)
        self.assertTrue(all(len(line) <= 200 for line in explain("x" * 10_000, 30)))

    def test_a_panic_is_shown_however_much_follows(self):
        lines = "\n".join(explain(LIBTEST + "chatter\n" * 9_000, 20))
        self.assertIn("right: 4", lines)

    def test_what_does_not_compile_shows_the_error(self):
        text = "   Compiling wire v0.1.0\nerror[E0308]: mismatched types\n  --> wire/src/ids.rs:3:5\n   |\n3  |     1\n"
        lines = "\n".join(explain(text, 20))
        self.assertIn("error[E0308]: mismatched types", lines)
        self.assertIn("wire/src/ids.rs:3:5", lines)

    def test_our_own_harnesses_are_understood(self):
        self.assertIn("a_node_sleeps", "\n".join(explain("test a_node_sleeps FAILED in 3 s\nI7: a hole\n", 20)))
        self.assertIn("I7: a hole", "\n".join(explain("test a_node_sleeps FAILED in 3 s\nI7: a hole\n", 20)))
        self.assertIn("rsv bits", "\n".join(explain("FAILED rsv bits\n       no answer\n", 20)))

    def test_what_nobody_foresaw_shows_its_end(self):
        self.assertIn("  | killed", explain("begun\nkilled\n", 20))


class Lanes(unittest.TestCase):
    def test_all_green_leaves_with_0(self):
        code, said = all_of([("one", COMPUTES, 9, lambda h, l: True), ("two", WAITS, 9, lambda h, l: True)])
        self.assertEqual(code, 0)
        self.assertEqual(said.splitlines()[-1], "2 passed, 0 failed")

    def test_red_says_why_last_of_all(self):
        def red(house, log):
            log.say(LIBTEST)
            return False

        code, said = all_of([(f"step {n}", COMPUTES, 9, red) for n in range(9)])
        self.assertEqual(code, 1)
        end = said.splitlines()[-60:]
        self.assertIn("✗ step 0", end)
        self.assertIn("failed: step 8", end)
        self.assertTrue(any("right: 4" in line for line in end))
        self.assertEqual(end[-1], "0 passed, 9 failed")
        self.assertLess(said.splitlines().index("✗ step 0"), len(said.splitlines()))
        self.assertLessEqual(len(said.splitlines()) - said.splitlines().index("✗ step 0"), WHY_LINES + 4)

    def test_what_needs_a_red_step_is_not_run_and_not_passed(self):
        rows = [("one", COMPUTES, 9, lambda h, l: False), ("two", WAITS, 9, lambda h, l: True, ("one",))]
        code, said = all_of(rows)
        self.assertEqual(code, 1)
        self.assertIn("not run: two", said)
        self.assertIn("0 passed, 2 failed", said)

    def test_a_fault_of_the_step_itself_is_red(self):
        code, said = all_of([("one", COMPUTES, 9, lambda h, l: 1 // 0)])
        self.assertEqual(code, 1)
        self.assertIn("ZeroDivisionError", said)

    def test_a_command_that_does_not_end_is_killed_with_its_children(self):
        def hangs(house, log):
            log._deadline = time.monotonic() + 1
            return log.command("sh", "-c", "sleep 4321 & echo child=$!; wait")

        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder)
            step = Step("one", COMPUTES, 9, hangs)
            with contextlib.redirect_stdout(io.StringIO()) as out:
                self.assertEqual(run([step], House(path), path), 1)
            child = int(step.log.read_text().split("child=")[1].split()[0])
        self.assertIn("did not end in time", out.getvalue())
        self.assertLess(time.monotonic() - began, 600)
        self.assertFalse(alive(child), "its child was left")

    def test_what_is_slow_is_marked_and_passes(self):
        code, said = all_of([("one", COMPUTES, 0, lambda h, l: time.sleep(1.1) or True)])
        self.assertEqual(code, 0)
        self.assertIn("over its budget", said)


class Table(unittest.TestCase):
    def test_names_are_single_and_needs_exist(self):
        steps = table.STEPS + table.LONG
        names = [step.name for step in steps]
        self.assertEqual(len(names), len(set(names)))
        for at, step in enumerate(steps):
            for need in step.needs:
                self.assertIn(need, names[:at], f"{step.name} needs {need}, which stands behind it or nowhere")

    def test_all_of_it_is_within_25_minutes_by_its_budgets(self):
        for lane in (COMPUTES, WAITS):
            # What waits begins behind the build.
            before = sum(s.budget_s for s in table.STEPS if s.name in ("format", table.BUILD)) if lane == WAITS else 0
            self.assertLessEqual(before + sum(s.budget_s for s in table.STEPS if s.lane == lane), 25 * 60)


class Ports(unittest.TestCase):
    def test_no_port_is_given_twice_nor_to_another_process(self):
        mine = {ports.claim() for _ in range(50)}
        self.assertEqual(len(mine), 50)
        taken = next(iter(mine))
        child = os.fork()
        if child == 0:
            files = []
            held = ports._hold(pathlib.Path(tempfile.gettempdir()) / "switchboard-ports", taken, files)
            os._exit(1 if held else 0)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)


def alive(pid):
    """Running; one that ended and nobody reaped is not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


if __name__ == "__main__":
    unittest.main()
