"""The connection of `on_ray` to a cluster: joining it, one actor in it, and Ray's errors for a lost actor."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pdr_dspy.errors import ExecutorError, MissingExtra

if TYPE_CHECKING:
    from ray.exceptions import RayError


class Seat:
    """An actor and its running rows."""

    def __init__(self, handle: Any, node: str, heard: Callable[[], None]) -> None:
        self.handle = handle
        self.node = node
        self._heard = heard
        self.rows = 0
        self.life = 0
        """How often it has died."""
        self.hello: Future[str] = self._ask()

    def _ask(self) -> Future[str]:
        hello = self.handle.hello.options(max_task_retries=-1).remote().future()
        hello.add_done_callback(lambda _: self._heard())
        return hello

    @property
    def ready(self) -> bool:
        return self.hello.done() and self.hello.exception() is None

    @property
    def lost(self) -> BaseException | None:
        """Why it will never return; None while it may."""
        return self.hello.exception() if self.hello.done() else None

    def died(self, life: int) -> None:
        """A row of its `life` found it dead: check it again after its restart."""
        if life == self.life:
            self.life += 1
            self.hello = self._ask()


def join(address: str) -> bool:
    """Connect this process to the cluster unless it is connected; return whether it was connected here."""
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("ray", "ray", "`RayExecutor`") from error
    if ray.is_initialized():
        return False
    own: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        with _signals_kept():
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        remedy = 'start one with `ray start --head`, or use "local"' if address == "auto" else "is its head running?"
        raise ExecutorError(
            f"`RayExecutor(address={address!r})` found no cluster: {' '.join(str(error).split())[:300]}; {remedy}"
        ) from error
    return True


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep the SIGTERM handler, which Ray replaces by its own."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if main else None
    try:
        yield
    finally:
        if main and before is not None:
            signal.signal(signal.SIGTERM, before)


def lost_errors() -> tuple[type[RayError], ...]:
    """Ray's errors for an actor, or a result, that is gone."""
    from ray import exceptions

    return (
        exceptions.RayActorError,
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.ObjectLostError,
        exceptions.TaskCancelledError,
    )


def in_a_line(error: BaseException | None) -> str:
    """An error in one line; Ray passes on a whole traceback, whose last line has the message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:400]}" if lines else type(error).__name__
