"""Ports of a test: free ones, each held until the process that asked for it ends.

Whoever listens there takes the port only a moment later, so that a port which is merely free now may be given twice. A port
is therefore held by a lock on a file, which the tests written in Rust ask for in the same place (`tests/ports/src/lib.rs`).
"""

import fcntl
import os
import pathlib
import random
import socket
import tempfile

# Below the range that outgoing connections take theirs from.
FIRST, LAST = 12_000, 31_999

_held = []


def claim(*beside):
    """A free port P; P + each of `beside` is free too, and all are held."""
    folder = pathlib.Path(tempfile.gettempdir()) / "switchboard-ports"
    folder.mkdir(mode=0o1777, exist_ok=True)
    for _ in range(10_000):
        port = random.randint(FIRST, LAST - max(beside, default=0))
        files = []
        if all(_hold(folder, port + more, files) for more in (0, *beside)):
            _held.extend(files)
            return port
        for file in files:
            os.close(file)
    raise RuntimeError(f"no free port between {FIRST} and {LAST}")


def claim_span(count):
    """The first of `count` ports in a row that are free now; only the first is held."""
    for _ in range(100):
        first = claim()
        if first + count <= LAST and all(_is_free(port) for port in range(first + 1, first + count)):
            return first
    raise RuntimeError(f"no {count} free ports in a row")


def _is_free(port):
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _hold(folder, port, files):
    file = os.open(folder / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
    files.append(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return _is_free(port)
