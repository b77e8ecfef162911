"""A pool of killable, memory-limited processes that parse untrusted answers.

`ask` is thread-safe: an item waits for a free process, and its time starts when it is sent. A pool starts with its
first item, with at most one process per core and four in all; it is closed at exit, its processes end when this process
dies, and a forked process starts its own pool.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pdr_dspy.errors import ConfigError, PDRError

_START_SECONDS = 120.0
_GRACE_SECONDS = 1.0
_WORKER = Path(__file__).with_name("grading_worker.py")


def ask(kind: str, request: dict[str, Any], *, timeout: float, memory: int) -> dict[str, Any]:
    """Return a worker's reply to one item.

    `timeout` is the item's wall time in seconds, `memory` the bytes by which its process may grow. If it exceeds them,
    the reply is {"error": "time" | "memory" | "crash"}; an exception in the scorer is {"error": "failed",
    "detail": ...}. Raises PDRError if no worker can be started.
    """
    return _pool(kind).ask({**request, "timeout": timeout, "memory": memory}, timeout)


def close() -> None:
    """End all worker processes; the next item starts new ones."""
    with _lock:
        pools = list(_pools.values())
        _pools.clear()
    for pool in pools:
        pool.close()


class _Worker:
    """One worker process with its two pipes."""

    def __init__(self, kind: str) -> None:
        # -P: the script's folder has modules with names of the standard library.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._ready = False

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any] | None:
        """The reply; None if the process must be replaced. Raises PDRError if it could not start."""
        if not self._ready:
            hello = self._receive(time.monotonic() + _START_SECONDS)
            if hello is None or "fatal" in hello:
                reason = hello["fatal"] if hello else "it ended or was not ready in time"
                raise PDRError(f"The grading process could not start: {reason}")
            self._ready = True
        if self._readable(0):
            return None  # an unexpected message: its child died between two items
        body = json.dumps(request).encode()
        try:
            data = memoryview(struct.pack(">I", len(body)) + body)
            while data:
                data = data[os.write(self._requests, data) :]
        except BrokenPipeError:
            return None
        return self._receive(time.monotonic() + timeout + _GRACE_SECONDS)

    def _readable(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._replies, select.POLLIN | select.POLLHUP)
        return bool(poll.poll(max(0, seconds) * 1000))

    def _receive(self, deadline: float) -> dict[str, Any] | None:
        data = b""
        while len(data) < 4 or len(data) < 4 + struct.unpack(">I", data[:4])[0]:
            if not self._readable(deadline - time.monotonic()):
                return None
            piece = os.read(self._replies, 65536)
            if not piece:
                return None
            data += piece
        return json.loads(data[4:])

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.forget()

    def forget(self) -> None:
        """Close the pipes without ending the process, which belongs to the parent."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.returncode = self._process.returncode or 0


class _Pool:
    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.size = max(1, min(4, os.cpu_count() or 1))
        self._free = threading.Semaphore(self.size)
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._guard = threading.Lock()

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        with self._free:
            for _ in range(3):
                keeper = self._take()
                try:
                    reply = keeper.ask(request, timeout)
                except BaseException:
                    self._drop(keeper)
                    raise
                if reply is None:
                    self._drop(keeper)
                    continue
                with self._guard:
                    self._idle.append(keeper)
                return reply
        return {"error": "crash"}

    def _take(self) -> _Worker:
        with self._guard:
            if self._idle:
                return self._idle.pop()
        keeper = _Worker(self.kind)
        with self._guard:
            self._all.add(keeper)
        return keeper

    def _drop(self, keeper: _Worker) -> None:
        with self._guard:
            self._all.discard(keeper)
        keeper.kill()

    def close(self) -> None:
        with self._guard:
            keepers, self._all, self._idle = list(self._all), set(), []
        for keeper in keepers:
            keeper.kill()

    def forget(self) -> None:
        for keeper in self._all:
            keeper.forget()


_lock = threading.Lock()
_pools: dict[str, _Pool] = {}
_prepared = False


def _pool(kind: str) -> _Pool:
    global _prepared
    with _lock:
        if not _prepared:
            if not hasattr(os, "fork"):
                raise ConfigError("MathVerifier and ProceduralVerifier need a POSIX system (Linux or macOS)")
            atexit.register(close)
            os.register_at_fork(after_in_child=_after_fork)
            _prepared = True
        return _pools.setdefault(kind, _Pool(kind))


def _after_fork() -> None:
    """Drop the parent's workers and locks in a forked process."""
    global _lock, _pools
    inherited, _pools, _lock = _pools, {}, threading.Lock()
    for pool in inherited.values():
        pool.forget()
