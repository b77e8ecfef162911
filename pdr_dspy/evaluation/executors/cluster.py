"""The connection of `on_ray` to a cluster: joining it, one actor in it, why none runs yet, and Ray's errors."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pdr_dspy.errors import ExecutorError, MissingExtra
from pdr_dspy.evaluation.executors.address import check_head, head_of, in_words
from pdr_dspy.runtime import luggage

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
    known = in_words(address)
    try:
        head = head_of(address)
        if head is not None:
            check_head(head)
        with _signals_kept():
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        remedy = "is its head running?"
        if isinstance(error, ValueError):
            remedy = "give HOST:PORT of its head, such as 10.0.0.5:6379 or [fd00::5]:6379"
        elif address == "auto":
            change = "" if known == repr(address) else "unset RAY_ADDRESS, "
            remedy = f'is its head running? If not, {change}start one with `ray start --head`, or use "local"'
        raise ExecutorError(
            f"`RayExecutor(address={known})` found no cluster: {' '.join(str(error).split())[:300]}; {remedy}"
        ) from error
    return True


def why_none_runs(actors: int, cpus: float) -> str:
    """Why none of so many actors, which need so many CPUs each, runs yet, and what helps."""
    waiting = _waiting(cpus)
    if waiting is None or 0 < waiting < actors:
        return f"they are starting, or wait for a node with {cpus:g} free CPUs; `ray status` shows what the cluster has"
    if waiting:
        return (
            f"they wait for a node with {cpus:g} free CPUs; `ray status` shows what the cluster has and what is used. "
            "End what uses it, add a node, or take `RayExecutor(cpus=0)`"
        )
    return (
        "they have their CPUs and are starting. That takes long on a busy machine, since Ray gives its processes a low "
        "priority: start the node with `RAY_worker_niceness=0 ray start ...`"
    )


def _waiting(cpus: float) -> int | None:
    """How many actors or tasks of so many CPUs have no place in the cluster; None if this Ray does not say."""
    import ray

    try:
        from ray.autoscaler.v2.sdk import get_cluster_status

        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        kinds = [kind for one in status.resource_demands.ray_task_actor_demand for kind in one.bundles_by_count]
        return sum(kind.count for kind in kinds if kind.bundle.get("CPU", 0) == cpus)
    except Exception:  # it explains a delay, and is not what the rows wait for
        return None


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


def unsendable(parts: Mapping[str, Any]) -> str | None:
    """Which of the parts, by name, cannot be sent to another process, and why; None if each can be."""
    for name, part in parts.items():
        why = _refusal(part)
        if why is not None:
            inside = ((key, _refusal(value)) for key, value in getattr(part, "__dict__", {}).items())
            # Others may be left out of what is sent (`__getstate__`).
            key = next((key for key, reason in inside if reason == why), None)
            return f"{name if key is None else f'{name}, in its `{key}`,'} cannot be sent to another process: {why}"
    return None


def _refusal(value: Any) -> str | None:
    """Why Ray cannot pickle a value. Its own error quotes all of the value; the cause of that does not."""
    import ray

    try:
        with luggage.packed():
            ray.put(value)
    except Exception as error:
        return refusal(error)
    return None


def refusal(error: Exception) -> str:
    """The end of an error of pickling, which names the type."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[-300:]}"


def in_a_line(error: BaseException | None) -> str:
    """An error in one line; Ray passes on a whole traceback, whose last line has the message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:400]}" if lines else type(error).__name__
