"""Several processes that accept requests from one listening socket, and the process that supervises them.

The socket is bound once and inherited, so that connections wait in its queue while a worker is replaced. Each worker
reports through a pipe that it is ready and, every second, that its event loop runs. A worker that ends, or is silent
for too long, is replaced; if the supervising process dies, its workers drain and end.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from pdr_dspy.errors import ConfigError, PDRError, ServerStartError

log = logging.getLogger(__name__)

BEAT = 1.0
"""Seconds between two heartbeats of a worker."""


@dataclass(frozen=True)
class Patience:
    """Timeouts for workers, in seconds."""

    start: float = 120.0
    """From the start of a worker until it is ready."""
    silent: float = 60.0
    """Without a heartbeat; a process that is stopped or whose event loop hangs is killed and replaced."""
    drain: float = 120.0
    """From the order to end until a worker is killed."""
    tries: int = 5
    """Consecutive failed starts after which all processes end, if no worker is left that serves."""


class Pulse:
    """The heartbeat of a worker. A full pipe does not block."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        os.set_blocking(pipe.fileno(), False)

    def ready(self) -> None:
        """The worker accepts requests."""
        self._write(b"r")

    def beat(self) -> None:
        """The worker's event loop runs."""
        self._write(b".")

    def _write(self, sign: bytes) -> None:
        with suppress(OSError):  # full, or no longer read
            os.write(self._pipe.fileno(), sign)


Worker = Callable[..., None]
"""`worker(number, listener, pulse, *args)`: serves until SIGTERM, then drains and returns. It and its arguments are
pickled for a new process, so it must be a module-level function."""


def supervise(
    worker: Worker,
    args: tuple[Any, ...],
    listener: socket.socket,
    count: int,
    *,
    patience: Patience | None = None,
    ready: Callable[[], None] | None = None,
    ended: Callable[[int], None] | None = None,
) -> None:
    """Keep `count` workers running until SIGTERM or SIGINT, then let all of them drain.

    Args:
        worker: the function that each of them runs.
        args: its further arguments.
        listener: the bound socket; it will be closed.
        count: number of workers.
        patience: timeouts for the workers.
        ready: called once, when all of them accept requests.
        ended: called with the process id of each one that has ended.

    Raises:
        ConfigError: this system cannot pass sockets to other processes.
        ServerStartError: a worker did not start, or none is left and several starts in a row have failed.
    """
    if sys.platform == "win32":
        raise ConfigError(f"`--workers {count}` needs a POSIX system; start several servers behind a proxy instead")
    watch = _Watch(worker, args, listener, count, patience or Patience(), ended or (lambda process: None))
    with _signals() as (told, wakes):
        try:
            watch.run(told, wakes, ready)
            watch.drain(told, wakes)
        finally:
            listener.close()
            watch.kill()


class _Place:
    """One of the workers, independent of its current process."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: Any = None
        self.pipe: Connection | None = None
        self.started = 0.0
        self.heard = 0.0
        self.serves = False
        self.failures = 0
        """Consecutive failed starts."""
        self.next_start = 0.0


class _Watch:
    def __init__(
        self,
        worker: Worker,
        args: tuple[Any, ...],
        listener: socket.socket,
        count: int,
        patience: Patience,
        ended: Callable[[int], None],
    ) -> None:
        self.worker, self.args, self.listener, self.patience, self.ended = worker, args, listener, patience, ended
        self.places = [_Place(number) for number in range(count)]
        self.context = multiprocessing.get_context("spawn")
        self.complete = False
        """Whether all of them have served at the same time."""

    def run(self, told: list[int], wakes: socket.socket, ready: Callable[[], None] | None) -> None:
        while not told:
            now = time.monotonic()
            for place in self.places:
                if place.process is None and place.next_start <= now:
                    self._start(place)
            self._listen(wakes, BEAT)
            self._reap()
            if not self.complete and all(place.serves for place in self.places):
                self.complete = True
                if ready is not None:
                    ready()

    def drain(self, told: list[int], wakes: socket.socket) -> None:
        """Let all workers end their active requests; a further SIGINT is passed on, which ends them early."""
        self.listener.close()
        self._send_signal(signal.SIGTERM)
        ends, heard = time.monotonic() + self.patience.drain, len(told)
        while any(place.process for place in self.places) and time.monotonic() < ends:
            self._listen(wakes, BEAT)
            for place in self.places:
                if place.process is not None and place.process.exitcode is not None:
                    self._gone(place)
            if len(told) > heard and told[-1] == signal.SIGINT:
                self._send_signal(signal.SIGINT)
            heard = len(told)

    def kill(self) -> None:
        for place in self.places:
            if place.process is not None:
                place.process.kill()
                self._gone(place)

    def _send_signal(self, number: int) -> None:
        for place in self.places:
            if place.process is not None and place.process.exitcode is None:
                os.kill(place.process.pid, number)

    def _start(self, place: _Place) -> None:
        receiving, sending = self.context.Pipe(duplex=False)
        process = self.context.Process(
            target=_begin, args=(self.worker, place.number, self.listener, sending, self.args), name="pdr-serve-worker"
        )
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: a terminal sends it to the whole group
        try:
            process.start()
        finally:
            signal.signal(signal.SIGINT, before)
        sending.close()
        place.process, place.pipe, place.serves = process, receiving, False
        place.started = place.heard = time.monotonic()

    def _listen(self, wakes: socket.socket, seconds: float) -> None:
        """Wait for heartbeats, ends and signals."""
        pipes = {place.pipe: place for place in self.places if place.pipe is not None}
        sentinels = [place.process.sentinel for place in self.places if place.process is not None]
        for source in wait([*pipes, *sentinels, wakes], seconds):
            if source is wakes:
                with suppress(BlockingIOError):
                    wakes.recv(4096)
            elif isinstance(source, Connection):
                place = pipes[source]
                signs = os.read(source.fileno(), 4096)
                if not signs:  # it has ended
                    source.close()
                    place.pipe = None
                    continue
                place.heard = time.monotonic()
                if b"r" in signs:
                    place.serves, place.failures = True, 0

    def _reap(self) -> None:
        """Replace workers that have ended, and kill silent ones."""
        now = time.monotonic()
        for place in self.places:
            process = place.process
            if process is None:
                continue
            if process.exitcode is None:
                limit = self.patience.silent if place.serves else self.patience.start
                if now - place.heard <= limit:
                    continue
                log.error("worker %d (process %d) is silent for %g s: killed", place.number, process.pid, limit)
                process.kill()
            served, pid = place.serves, process.pid
            self._gone(place)
            code = process.exitcode or 0
            why = f"signal {-code}" if code < 0 else f"status {code}"
            place.failures = 0 if served else place.failures + 1
            pause = 0.0 if served else min(2.0**place.failures, 30.0)
            place.next_start = max(time.monotonic() + pause, place.started + BEAT)
            if not self.complete:
                raise ServerStartError(f"worker {place.number} (process {pid}) ended with {why} before it served")
            if place.failures >= self.patience.tries and not any(other.serves for other in self.places):
                raise ServerStartError(f"no worker is left, and {place.failures} starts in a row ended with {why}")
            log.error("worker %d (process %d) ended with %s; another takes its place", place.number, pid, why)

    def _gone(self, place: _Place) -> None:
        place.process.join()
        self.ended(place.process.pid)
        if place.pipe is not None:
            place.pipe.close()
        place.process, place.pipe, place.serves = None, None, False


@contextmanager
def _signals() -> Iterator[tuple[list[int], socket.socket]]:
    """The signals received that end this process, in a list, and a socket that becomes readable after each."""
    told: list[int] = []
    wakes, waker = socket.socketpair()
    wakes.setblocking(False)
    waker.setblocking(False)

    def handle(number: int, frame: Any) -> None:
        told.append(number)
        with suppress(BlockingIOError):
            waker.send(b".")

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told, wakes
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        wakes.close()
        waker.close()


def _begin(worker: Worker, number: int, listener: socket.socket, pipe: Connection, args: tuple[Any, ...]) -> None:
    """The main function of a new process."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        worker(number, listener, Pulse(pipe), *args)
    except PDRError as error:
        log.error("worker %d: %s", number, error)
        sys.exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
