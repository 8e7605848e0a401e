"""The table of steps: what ./test runs, in which lane, and how long it may take before the table says so."""

import subprocess
import sys
import time

import ports
from house import ROOT
from run import COMPUTES, WAITS, Step

BUILD, FETCH, SERVERS, DEV = "build", "fetch servers and tools", "start Kafka and CQL", "start one process"
# Not by the unit step: they want the built binary or real servers, and have steps of their own.
BY_THEMSELVES = {("log", "conformance"), ("tests/hostile", "hostile"), ("tests/system", "processes"), ("tests/edge", "edge")}
# The longest begin first.
FIRST = [("test", "persistence"), ("test", "log"), ("test", "ingress"), ("unit", "tests/sim")]


def command(*words):
    return lambda house, log: log.command(*words, cwd=ROOT)


def tool(name, *words):
    """One of our own binaries."""
    return lambda house, log: log.command(house.binary(name), *words, cwd=ROOT)


def test(package, name, *words, servers=True):
    return lambda house, log: house.run_test(log, package, name, *words, servers=servers)


def build(house, log):
    messages = house.work / "built.json"
    with open(messages, "wb") as out:
        kinds = ["--lib", "--bins", "--tests"]
        # Always the whole workspace: another selection of packages has other features, and builds every dependency again.
        words = ["cargo", "build", "--workspace", *kinds, "--locked", "--message-format=json-render-diagnostics"]
        passed = log.command(*words, cwd=ROOT, stdout=out)
    if passed:
        house.read_built(messages)
    return passed


def fetch(house, log):
    scripts = [["deploy/kafka-fetch"], ["deploy/cassandra-fetch"], ["deploy/corpus-fetch"]]
    scripts += [["tests/independent/run", "--install"], ["tests/schemathesis/run", "--install"]]
    return all([log.command(ROOT / words[0], *words[1:]) for words in scripts])


def units(house, log):
    rows = [
        (kind, package, name)
        for package, name, kind in house.built
        if kind == "unit" or kind == "test" and (package, name) not in BY_THEMSELVES
    ]
    rows.sort(key=lambda row: FIRST.index(row[:2]) if row[:2] in FIRST else len(FIRST))
    return house.run_tests(log, rows)


def conformance(house, log):
    """What runs on the embedded implementations is in the unit step."""
    rows = [
        ("test", "log", "conformance", "kafka::"),
        ("test", "persistence/store", "all", "_cql", "cql::"),
        ("test", "log", "all", "kafka_changes::"),
        ("test", "persistence", "all", "replay::"),
    ]
    return house.run_tests(log, rows, servers=True)


def fresh_seeds(house, log):
    first = int(time.time()) % 1_000_000 * 10_000
    return log.command(house.binary("sim"), "run", "--seeds", f"{first}..{first + 4_999}", "--threads", "2", "--coverage")


def guided_fuzz(house, log):
    """`tokens`, which libFuzzer does not have, from our own mutations."""
    mutated = [house.binary("fuzz"), "--seconds", "60", "--seed", int(time.time()), "tokens"]
    return log.command(ROOT / "tests/fuzz/guided", "--seconds", "60", cwd=ROOT) and log.command(*mutated, cwd=ROOT)


def frozen(house, log):
    """Brokers frozen beyond the delivery timeout (F10), with numbered records and without."""
    common = ["--only", "frozen", "--minutes", "0.1", "--sends-min", "50", "--port-base", ports.claim_span(1_000)]
    runs = [["--seed", "2", "--idempotence", "off"], ["--seed", "1", "--idempotence", "on"]]
    return all(log.command(house.binary("chaos"), *common, *run, cwd=ROOT) for run in runs)


def independent(house, log):
    return log.command(ROOT / "tests/independent/run", house.url, house.binary("switchboard"))


def schemathesis(house, log):
    return log.command(ROOT / "tests/schemathesis/run", house.url, house.binary("switchboard"))


def replay(house, log):
    found = subprocess.run([ROOT / "deploy/corpus-fetch"], stdout=subprocess.PIPE, check=True, text=True)
    corpus = found.stdout.splitlines()[-1]
    return log.command(house.binary("switchboard"), "load", "--url", house.url, "--replay", corpus)


def dashboards(house, log):
    """A panel is only proven by numbers: some traffic flows while its query runs."""
    url = house.url.replace("http", "ws", 1)
    words = ["load", "--url", url, "--pairs", "20", "--rate", "200", "--duration", "10m"]
    traffic = log.start(house.binary("switchboard"), *words)
    try:
        time.sleep(5)
        return log.command(ROOT / "dashboards/check", house.ops)
    finally:
        house.processes.kill(traffic)


STEPS = [
    Step("format", COMPUTES, 5, command("cargo", "fmt", "--all", "--check"), quick=True),
    Step("the tests' own runner", COMPUTES, 5, command(sys.executable, "-m", "unittest", "discover", "-s", "tests/steps"), quick=True),
    Step(FETCH, WAITS, 60, fetch),
    Step(BUILD, COMPUTES, 600, build, quick=True),
    Step("unit, property and house tests", COMPUTES, 150, units, (BUILD,), quick=True, real_time=True),
    Step(
        "simulation, 2,000 seeds",
        COMPUTES,
        90,
        tool("sim", "run", "--seeds", "1..2000", "--threads", "2", "--coverage"),
        (BUILD,),
    ),
    Step("simulation, every seeded bug is found", COMPUTES, 90, tool("sim", "bugs", "--threads", "2"), (BUILD,)),
    Step("mutated inputs, 2 s for each target", COMPUTES, 25, tool("fuzz", "--seconds", "2"), (BUILD,)),
    Step(
        "lints (clippy)",
        COMPUTES,
        170,
        command("cargo", "clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"),
        (BUILD,),
        quick=True,
    ),
    Step("licences, bans and sources", COMPUTES, 10, command(ROOT / "tests/deny"), quick=True),
    Step(SERVERS, WAITS, 40, lambda house, log: house.start_servers(log), (FETCH, BUILD), real_time=True),
    Step("conformance on Kafka and CQL", WAITS, 150, conformance, (BUILD, SERVERS), real_time=True),
    Step(
        "processes killed, embedded",
        WAITS,
        60,
        test("tests/system", "processes", "--short", "one_process", servers=False),
        (BUILD,),
        real_time=True,
    ),
    Step(
        "processes killed, on Kafka and CQL",
        WAITS,
        90,
        test("tests/system", "processes", "--short", "each_kind"),
        (BUILD, SERVERS),
        real_time=True,
    ),
    Step("hostile input at every edge", WAITS, 90, test("tests/hostile", "hostile", servers=False), (BUILD,), real_time=True),
    Step("transports, TLS and secrets", WAITS, 130, test("tests/edge", "edge"), (BUILD, SERVERS), real_time=True),
    Step(DEV, WAITS, 10, lambda house, log: house.start_dev(log), (BUILD,), real_time=True),
    Step("independent client (Python websockets)", WAITS, 20, independent, (DEV, FETCH), real_time=True),
    Step("HTTP API as each role (schemathesis)", WAITS, 70, schemathesis, (DEV, FETCH)),
    Step("real dialogues in a score of languages", WAITS, 30, replay, (DEV, FETCH)),
    Step("dashboards on a real Prometheus", WAITS, 40, dashboards, (DEV,), real_time=True),
    Step("drain leaves with 0", WAITS, 10, lambda house, log: house.stop_dev(log), (DEV,), real_time=True),
]

# In place of the 2,000.
QUICK_SEEDS = Step(
    "simulation, 200 seeds", COMPUTES, 15, tool("sim", "run", "--seeds", "1..200", "--threads", "2"), (BUILD,), quick=True
)

LONG = [
    Step("every coverage-guided target, a minute each", COMPUTES, 600, guided_fuzz, (BUILD,), long="fuzz"),
    Step("brokers frozen past the delivery timeout", WAITS, 300, frozen, (BUILD, FETCH), long="frozen"),
    Step(
        "processes killed and paused, all six rows",
        WAITS,
        700,
        test("tests/system", "processes"),
        (BUILD, SERVERS),
        long="processes",
    ),
    Step("5,000 seeds that were never run", COMPUTES, 300, fresh_seeds, (BUILD,), long="seeds"),
    Step("real-time steps on a busy machine, five times", WAITS, 3600, command(ROOT / "tests/steady", "5"), long="steady"),
]
