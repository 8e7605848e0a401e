"""What the steps share: the binaries that were built, the servers that were started."""

import concurrent.futures
import json
import os
import pathlib
import time
import urllib.request

import ports
from run import Processes

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# A hang, and nothing else, keeps the one process from being ready that long.
READY_WITHIN_S = 120


class House:
    def __init__(self, work):
        self.work = work
        self.processes = Processes()
        # (package's folder, target, "test" | "unit" | "bin") → the executable, as Cargo named it.
        self.built = {}
        # What tests on real servers look for.
        self.servers = {}
        self._cleanups = []
        self.dev = None
        self.url = self.ops = None

    # ---- what was built ----

    def read_built(self, messages):
        """Takes the executables from what `cargo build --message-format=json` printed."""
        for line in messages.read_text().splitlines():
            message = json.loads(line)
            if message.get("reason") == "compiler-artifact" and message.get("executable"):
                package = pathlib.Path(message["manifest_path"]).parent
                target = message["target"]
                of_sources = "test" not in target["kind"]
                kind = "bin" if not message["profile"]["test"] else "unit" if of_sources else "test"
                self.built[package.relative_to(ROOT).as_posix(), target["name"], kind] = message["executable"]

    def binary(self, name):
        for (_, target, kind), path in self.built.items():
            if kind == "bin" and target == name:
                return path
        raise RuntimeError(f"{name} was not built")

    def run_test(self, log, package, name, *words, kind="test", servers=False):
        """Runs one test binary where and as `cargo test` would. `kind`: "test", or "unit" for those among the sources.
        `servers`: it is told where Kafka and CQL are; what needs them and is not told skips itself."""
        folder = ROOT / package
        mine = {
            "SWITCHBOARD_BIN": self.binary("switchboard"),
            "CARGO_MANIFEST_DIR": str(folder),
            **(self.servers if servers else {}),
        }
        log.say(f"\n     Running {package}: {kind} {name} {' '.join(words)}")
        return log.command(self.built[package, name, kind], *words, env=mine, cwd=folder)

    def run_tests(self, log, each, servers=False):
        """Runs (kind, package, name, words …) in parallel, each into a file of its own, which is put into the log when it ended."""
        from run import Log

        def one(number_and_row):
            number, (kind, package, name, *words) = number_and_row
            path = log.path.with_suffix(f".{number}")
            own = Log(path, log._deadline, self.processes)
            began = time.monotonic()
            passed = self.run_test(own, package, name, *words, kind=kind, servers=servers)
            took = time.monotonic() - began
            own.file.close()
            log.file.write(path.read_bytes() + f"({took:.1f} s)\n".encode())
            path.unlink()
            return passed, took, f"{package} {kind}"

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            done = list(pool.map(one, enumerate(each)))
        slow = sorted(((took, name) for _, took, name in done), reverse=True)[:4]
        log.say("summary: slowest: " + ", ".join(f"{name} {took:.0f} s" for took, name in slow))
        return all(passed for passed, _, _ in done)

    # ---- servers ----

    def start_servers(self, log):
        kafka, cql = ports.claim(10), ports.claim()
        storage = ports.claim()
        folders = {"kafka": self.work / "kafka", "cassandra": self.work / "cassandra"}
        self._cleanups += [[ROOT / "deploy" / f"{name}-stop", folder] for name, folder in folders.items()]
        start = ROOT / "deploy"
        slow = {"CASSANDRA_STORAGE": str(storage), "CASSANDRA_START_S": "400", "KAFKA_START_S": "400"}
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            rows = [
                (start / "cassandra-start", folders["cassandra"], cql),
                (start / "kafka-start", folders["kafka"], kafka),
            ]
            if not all(pool.map(lambda row: log.command(*row, env=slow), rows)):
                return False
        self.servers = {
            "SWITCHBOARD_TEST_KAFKA": f"127.0.0.1:{kafka}",
            "SWITCHBOARD_TEST_CQL": f"127.0.0.1:{cql}",
            "SWITCHBOARD_TEST_CQL_DIR": str(folders["cassandra"]),
        }
        return True

    def start_dev(self, log):
        """Everything in one process, for clients that are not ours."""
        http, ops = ports.claim(), ports.claim()
        self.url, self.ops = f"http://127.0.0.1:{http}", f"http://127.0.0.1:{ops}"
        words = ["dev", "--listen", f"127.0.0.1:{http}", "--ops-listen", f"127.0.0.1:{ops}"]
        self.dev = log.start(self.binary("switchboard"), *words, "--data-dir", self.work / "dev")
        until = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < until and self.dev.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.ops}/readyz", timeout=5):
                    return True
            except OSError:
                time.sleep(0.2)
        log.say(f"error: the process is not ready; it has {'not ended' if self.dev.poll() is None else 'ended'}")
        return False

    def stop_dev(self, log):
        self.dev.terminate()
        code = self.dev.wait(READY_WITHIN_S)
        if code != 0:
            log.say(f"error: the process left with {code} where a drain leaves with 0")
        return code == 0

    def close(self):
        for words in self._cleanups:
            try:
                self.processes.start(
                    [str(word) for word in words], stdin=-3, stdout=-3, stderr=-3
                ).wait(60)
            except Exception:  # noqa: BLE001: what is left is killed below
                pass
        self._cleanups = []
        self.processes.kill_all()


def environment():
    """For everything that is run: nothing of a terminal's, nothing that builds another way."""
    os.environ.setdefault("CARGO_TERM_COLOR", "auto")
    os.environ["CARGO_INCREMENTAL"] = "0"
