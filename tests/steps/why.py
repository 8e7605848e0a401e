"""Why a step is red, in a few lines: what failed, what it said, and the end of its log."""

import re

# libtest, our own harnesses, pytest and unittest.
FAILED = [
    re.compile(r"^test (?!result:)(.+?) (?:\.\.\. )?FAILED"),
    re.compile(r"^FAILED (.+)"),
    re.compile(r"^(?:FAIL|ERROR): (.+)"),
    re.compile(r"^FAULT +(.+)"),
    re.compile(r"^SEED \d+ .*"),
]
# The first line of what says why, and how many lines of it are worth reading.
SAID = [
    (re.compile(r"panicked at"), 7),
    (re.compile(r"^error(\[|:)"), 9),
    (re.compile(r"^test .* FAILED in "), 8),
    (re.compile(r"^FAILED "), 4),
    (re.compile(r"^(\w+\.)*\w*(Error|Exception)\b"), 3),
    (re.compile(r"(FOUND something|^broken|PROMISES BROKEN|^red:)"), 7),
]
# Said by the tools themselves behind every failure; it explains nothing.
NOISE = re.compile(r"^\s*$|RUST_BACKTRACE|^stack backtrace:|^\s+\d+: |^\s+at .*rs:\d+|^failures:$|^note: |^thread caused non-unwinding")
WIDTH = 200


def explain(text, lines_max):
    """At most `lines_max` lines of a step's output: the names of what failed, what it said, the end."""
    lines = text.splitlines()
    names = _names(lines)
    said = _said(lines)
    shown = [f"  failed: {name}" for name in names[:8]]
    if len(names) > 8:
        shown.append(f"  and {len(names) - 8} more")
    shown += [f"  {line}" for line in said[: max(4, (lines_max - len(shown)) * 2 // 3)]]
    room = lines_max - len(shown) - 1
    if room >= 3:
        told = {line.strip() for line in shown}
        end = [f"  | {line}" for line in lines if not NOISE.search(line) and line.strip() not in told]
        shown += ["  the end of its log:", *end[-min(room, 15) :]]
    return [line if len(line) <= WIDTH else line[: WIDTH - 1] + "…" for line in shown[:lines_max]]


def _names(lines):
    names = []
    for line in lines:
        for pattern in FAILED:
            found = pattern.search(line)
            if found:
                name = (found.group(1) if pattern.groups else found.group(0)).strip()
                if name not in names and not any(known.startswith(name) for known in names):
                    names.append(name)
    return names


def _said(lines):
    """What was said by the first few that failed; each passage once."""
    said, until = [], 0
    for at, line in enumerate(lines):
        if at < until:
            continue
        for pattern, count in SAID:
            if pattern.search(line):
                passage = []
                for more in lines[at : at + count]:
                    if passage and (not more.strip() or any(p.search(more) for p, _ in SAID)):
                        break
                    if not NOISE.search(more):
                        passage.append(more)
                until = at + len(passage)
                if passage and passage[0] not in said:
                    said += passage
                break
    return said
