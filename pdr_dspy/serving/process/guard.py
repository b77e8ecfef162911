"""Runs one command and ends it together with the parent process: `python guard.py PARENT_PID COMMAND ...`.

The guard is started as the leader of a new session, with a pipe from the parent as stdin. When the parent ends in any
way, the pipe closes or the parent's id changes; the whole process group then gets SIGTERM and, five seconds later,
SIGKILL. Only the standard library is imported, so the guard takes about 10 MB.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time


def main() -> int:
    """Run the command of sys.argv; return its exit status (negative signal numbers as 128 + signal)."""
    parent = int(sys.argv[1])
    child = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL)
    # The parent, or _end_with, signals the whole group; the guard itself stays until its child has ended.
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent, child), daemon=True).start()
    status = child.wait()
    return status if status >= 0 else 128 - status


def _end_with(parent: int, child: subprocess.Popen[bytes]) -> None:
    wait_for_end(parent)
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + 5
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(0, signal.SIGKILL)


def wait_for_end(parent: int) -> None:
    """Return when stdin is closed, or when this process no longer belongs to `parent`."""
    while os.getppid() == parent:
        ready, _, _ = select.select([0], [], [], 1.0)
        if ready and not os.read(0, 4096):
            return


if __name__ == "__main__":
    sys.exit(main())
