"""Chooses the steps, runs them, cleans up. See ./test --help."""

import argparse
import pathlib
import shutil
import signal
import sys
import tempfile

import house as houses
import table
from run import run


def main():
    arguments = parse()
    steps = choose(arguments)
    houses.environment()
    signal.signal(signal.SIGTERM, told_to_end)
    work = pathlib.Path(tempfile.mkdtemp(prefix="switchboard-test."))
    house = houses.House(work)
    code = 130
    try:
        code = run(steps, house, work, follow=bool(arguments.only or arguments.long))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    finally:
        house.close()
        if code == 0:
            shutil.rmtree(work, ignore_errors=True)
    return code


def told_to_end(_signal, _frame):
    raise KeyboardInterrupt


def parse():
    parser = argparse.ArgumentParser(
        prog="./test",
        description="Sets up and runs the tests. Without options: all that is run before anything lands.",
        epilog=f"A budget that is not kept is marked in the table and fails nothing. Slow ones: {', '.join(s.long for s in table.LONG)}; "
        "see docs/long-runs.md.",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="format, lints, unit tests, 200 seeds: no servers, a few minutes")
    which.add_argument("--only", metavar="NAME", help="steps with this in their name, and what they need; shows their output")
    which.add_argument("--long", metavar="NAME", help="one of the slow ones, which no landing waits for")
    which.add_argument("--real-time", action="store_true", help="the steps that hang on clocks, sockets and processes")
    which.add_argument("--list", action="store_true", help="the steps' names, with their budgets in seconds")
    return parser.parse_args()


def choose(arguments):
    if arguments.list:
        for step in table.STEPS + table.LONG:
            how = f"--long {step.long}" if step.long else ""
            print(f"{step.name:<48}{step.budget_s:>6}  {how}".rstrip())
        sys.exit(0)
    if arguments.quick:
        return [step for step in [*table.STEPS, table.QUICK_SEEDS] if step.quick]
    if arguments.real_time:
        return with_needs([step for step in table.STEPS if step.real_time])
    if arguments.long:
        found = [step for step in table.LONG if step.long == arguments.long]
        if not found:
            unusable(f"--long knows {', '.join(s.long for s in table.LONG)}; not {arguments.long!r}")
        return with_needs(found)
    if arguments.only:
        found = [step for step in table.STEPS if arguments.only.lower() in step.name.lower()]
        if not found:
            unusable(f"no step has {arguments.only!r} in its name; ./test --list names them")
        return with_needs(found)
    return table.STEPS


def unusable(why):
    print(f"./test: {why}", file=sys.stderr)
    sys.exit(2)


def with_needs(wanted):
    """In the table's order."""
    names = {step.name for step in wanted}
    for step in [*reversed(table.STEPS + table.LONG)] * 2:
        if step.name in names:
            names.update(step.needs)
    return [step for step in table.STEPS + table.LONG if step.name in names]


sys.exit(main())
