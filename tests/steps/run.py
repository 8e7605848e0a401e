"""Runs steps in two lanes, each in its order: what computes in one, what mostly waits in the other.

A step's output goes to a log of its own. A step that does not end is killed at its limit, which is there to find hangs: being
slow is said in the table and fails nothing. What failed is explained last of all, in few lines: a log may be gone when
somebody asks for it.
"""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import traceback

from why import explain

COMPUTES, WAITS = "computes", "waits"
# No step usually takes a tenth of this.
LIMIT_MIN_S = 900
# Of everything, so that it says itself what hung before somebody else ends it. Usually it takes a third.
ALL_LIMIT_S = 80 * 60
# Behind the table come the reasons and the count, together no more than this.
WHY_LINES = 56


@dataclasses.dataclass
class Step:
    """One row of the table. `run(house, log)` returns whether it passed; `needs` names steps that must have passed before."""

    name: str
    lane: str
    budget_s: int
    run: object
    needs: tuple = ()
    quick: bool = False
    # Its outcome hangs on clocks, sockets or processes: what tests/steady repeats on a busy machine.
    real_time: bool = False
    # Only by --long, under this name.
    long: str = ""
    result: str = ""
    seconds: int = 0
    log: pathlib.Path = None

    @property
    def limit_s(self):
        return max(LIMIT_MIN_S, 10 * self.budget_s)


class Log:
    """Where a step's commands write."""

    def __init__(self, path, deadline, processes):
        self.path = path
        self.file = open(path, "ab", buffering=0)
        self._deadline = deadline
        self._processes = processes

    def say(self, text):
        self.file.write(f"{text}\n".encode())

    def text(self):
        return self.path.read_bytes().decode("utf-8", "replace")

    def command(self, *words, env=None, cwd=None, stdout=None):
        """Runs a command to its end; returns whether it left with 0. `stdout`: a file for what it prints, instead of the log."""
        return self.code(*words, env=env, cwd=cwd, stdout=stdout) == 0

    def code(self, *words, env=None, cwd=None, stdout=None):
        process = self.start(*words, env=env, cwd=cwd, stdout=stdout)
        try:
            return process.wait(max(1.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            name = pathlib.Path(str(words[0])).name
            self.say(f"error: {name} did not end in time and was killed: {' '.join(map(str, words))}")
            self._processes.kill(process)
            return 124

    def start(self, *words, env=None, cwd=None, stdout=None):
        """Starts a command in a process group of its own, which is killed with the tests at the latest."""
        return self._processes.start(
            [str(word) for word in words],
            stdin=subprocess.DEVNULL,
            stdout=stdout or self.file,
            stderr=self.file,
            env={**os.environ, **(env or {})},
            cwd=cwd,
        )


class Processes:
    """Every command that runs. None of them outlives the tests."""

    def __init__(self):
        self._lock = threading.Lock()
        self._running = []
        self._closed = False

    def start(self, words, **options):
        with self._lock:
            if self._closed:
                raise RuntimeError("the tests are ending")
            process = subprocess.Popen(words, start_new_session=True, **options)
            self._running = [p for p in self._running if p.poll() is None] + [process]
            return process

    def kill(self, process):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()

    def kill_all(self):
        with self._lock:
            self._closed = True
            running = list(self._running)
        for process in running:
            if process.poll() is None:
                self.kill(process)


def run(steps, house, work, follow=False):
    """Runs them all, prints what happens; returns the exit code. `follow`: prints the steps' output as it comes."""
    began = time.monotonic()
    ended = {step.name: threading.Event() for step in steps}
    by_name = {step.name: step for step in steps}
    said = threading.Lock()

    def say(text):
        with said:
            print(text, flush=True)

    def one(number, step):
        broken = [name for name in step.needs if name in by_name and by_name[name].result != "passed"]
        if broken:
            step.result = "not run"
            say(f"── {step.name}: not run, it needs “{broken[0]}”")
            return
        say(f"── {step.name}")
        at = time.monotonic()
        step.log = work / f"{number:02}-{''.join(c if c.isalnum() else '-' for c in step.name)[:40].strip('-')}.log"
        deadline = at + step.limit_s if step.long else min(at + step.limit_s, began + ALL_LIMIT_S)
        log = Log(step.log, deadline, house.processes)
        over = threading.Event()
        follower = threading.Thread(target=_follow, args=(step.log, over), daemon=True)
        if follow:
            follower.start()
        try:
            passed = step.run(house, log)
        except Exception:  # noqa: BLE001: a fault of the step itself is a red step, with its trace
            log.say(traceback.format_exc())
            passed = False
        over.set()
        if follow:
            follower.join()
        log.file.close()
        step.seconds = round(time.monotonic() - at)
        step.result = "passed" if passed else "FAILED"
        for line in log.text().splitlines():
            if line.startswith("summary: "):
                say(f"   {line.removeprefix('summary: ')}")
        say(f"── {step.name}: {'passed in' if passed else 'FAILED after'} {step.seconds} s")

    def lane(of):
        for number, step in enumerate(steps, 1):
            if step.lane != of:
                continue
            for name in step.needs:
                if name in ended:
                    ended[name].wait()
            try:
                one(number, step)
            finally:
                ended[step.name].set()

    lanes = [threading.Thread(target=lane, args=(of,), daemon=True) for of in (COMPUTES, WAITS)]
    for thread in lanes:
        thread.start()
    for thread in lanes:
        # Short waits, so that an interrupt is heard.
        while thread.is_alive():
            thread.join(0.5)
    house.close()
    return _tell(steps, round(time.monotonic() - began), work)


def _follow(path, over):
    with open(path, "rb") as file:
        while True:
            last = over.is_set()
            part = file.read()
            sys.stdout.buffer.write(part)
            sys.stdout.buffer.flush()
            if last and not part:
                return
            if not part:
                time.sleep(0.2)


def _tell(steps, seconds, work):
    print(f"\n{'step':<48}{'seconds':>8}{'budget':>8}  result")
    for step in steps:
        slow = "  over its budget" if step.seconds > step.budget_s else ""
        print(f"{step.name:<48}{step.seconds:>8}{step.budget_s:>8}  {step.result}{slow}")
    lanes = [sum(step.budget_s for step in steps if step.lane == lane) for lane in (COMPUTES, WAITS)]
    print(f"{'all, two at a time':<48}{seconds:>8}{max(lanes):>8}\n")
    red = [step for step in steps if step.result == "FAILED"]
    unrun = [step for step in steps if step.result not in ("passed", "FAILED")]
    each = (WHY_LINES - len(red) - 4) // max(1, min(len(red), 4)) - 2
    for step in red[:4]:
        print(f"✗ {step.name}")
        for line in explain(step.log.read_bytes().decode("utf-8", "replace"), each):
            print(line)
    if red:
        print(f"logs are in {work}")
    for step in red:
        print(f"failed: {step.name}")
    if unrun:
        print("not run: " + ", ".join(step.name for step in unrun))
    passed = sum(step.result == "passed" for step in steps)
    print(f"{passed} passed, {len(steps) - passed} failed", flush=True)
    return 0 if passed == len(steps) else 1
