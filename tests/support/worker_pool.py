"""Worker processes that answer single bytes: `python -m tests.support.worker_pool COUNT FOLDER`, until SIGTERM.

"p" is answered with the process id; "s" stops the process; "h" holds the answer back until the file `release` is
there. While the file `broken` is there no worker starts. Prints the port, then "ready".
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from pathlib import Path

from pdr_dspy.errors import ServerStartError
from pdr_dspy.runtime.worker_processes import Patience, Pulse, supervise

TURN = 0.02


def worker(number: int, listener: socket.socket, pulse: Pulse, folder: Path) -> None:
    """Serve until told to end, then answer what is held back."""
    if (folder / "broken").exists():
        raise ServerStartError("the file `broken` is there")
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: ending.append(1))
    held: list[socket.socket] = []
    listener.setblocking(False)
    pulse.ready()
    while not ending or held:
        pulse.beat()
        if (folder / "release").exists():
            while held:
                held.pop().sendall(b"released")
        if not ending and select.select([listener], [], [], TURN)[0]:
            try:
                connection, _ = listener.accept()
            except BlockingIOError:  # another worker took it
                continue
            connection.settimeout(20)
            asked = connection.recv(1)
            if asked == b"h":
                connection.sendall(b"held ")
                held.append(connection)
                continue
            if asked == b"s":
                os.kill(os.getpid(), signal.SIGSTOP)
            connection.sendall(str(os.getpid()).encode())
            connection.close()
        elif ending:
            select.select([], [], [], TURN)


def main() -> None:
    """Watch over them."""
    count, folder = int(sys.argv[1]), Path(sys.argv[2])
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    print(listener.getsockname()[1], flush=True)
    try:
        supervise(
            worker,
            (folder,),
            listener,
            count,
            patience=Patience(start=60.0, silent=1.5, drain=3.0, tries=2),
            ready=lambda: print("ready", flush=True),
        )
    except ServerStartError as error:
        print(f"error: {error}", flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
