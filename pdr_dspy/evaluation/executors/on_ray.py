"""Rows on the machines of a Ray cluster: an asynchronous actor on each node runs many of them concurrently.

This process, the driver, assigns rows to actors. A row goes to the actor with the fewest running rows; concurrent rows
of one question and repeat go to the same actor, where equal calls are sent once. A row whose actor died is run again by
another one: its finished calls are in the store, so that only those in flight are sent again. Ray restarts the actor,
on another node if its own is gone, and it takes new rows. Ray could repeat such a row itself (`max_task_retries`), but
only on the same actor after its restart; here its retries are used for `hello` only.

A store in a folder must be on a file system that all nodes share, which is checked; PostgreSQL is reachable from
anywhere. Requests go to servers on the actor's own node if the language model has some there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Self
from uuid import uuid4

import dspy

from pdr_dspy import calls
from pdr_dspy.errors import ConfigError, ExecutorError, StoreError
from pdr_dspy.evaluation.executors.actor import Actor, Order, Parcel, Reply
from pdr_dspy.evaluation.executors.base import DEFAULT, OnTexts, Rows, RowSettings
from pdr_dspy.evaluation.executors.cluster import (
    Seat,
    in_a_line,
    join,
    lost_errors,
    refusal,
    unsendable,
    why_none_runs,
)
from pdr_dspy.evaluation.records import Row
from pdr_dspy.runtime import luggage
from pdr_dspy.settings import is_number, whole_number
from pdr_dspy.verifiers.base import Verifier

LIVES = 8
"""Actors that may die under one row before the row is taken for the cause."""
STARTING = 30.0
"""Seconds after which a warning says that no actor runs yet; each of them imports this library first."""
LOSSES = 3
"""Actors that may end for good on a node, such as by a failing import, before the node is no longer used."""
LOOK = 5.0
"""Seconds between two checks for new nodes."""
SETTINGS = (
    "lm",
    "adapter",
    "rm",
    "disable_history",
    "provide_traceback",
    "num_threads",
    "async_max_workers",
    "max_errors",
    "allow_tool_async_sync_conversion",
    "warn_on_type_mismatch",
    "interpreter_factory",
)
"""DSPy settings that are sent along: those that determine a program's calls. Callbacks and traces stay in the
driver."""
logger = logging.getLogger("pdr_dspy")


class RayExecutor:
    """Runs rows on a Ray cluster. Use it as a context manager, or `close` it: its actors end with it.

    >>> with RayExecutor("auto") as executor:
    ...     report = evaluate(program, examples, verifier, run_dir="/shared/run", executor=executor)

    The cluster's Python, Ray and this library must be those of the driver, which runs in the cluster itself
    (`ray job submit`). Ray serialises programs, verifiers and language models to the actors: modules that define them
    must be importable there. The key and headers of an LM of `connect` are sent separately: they are only in the memory
    of the cluster's processes, never in its object store, its files or its dashboard. Other LMs carry their keys
    themselves.
    """

    def __init__(self, address: str = "auto", *, actors_per_node: int = 1, cpus: float = 1.0) -> None:
        """Join a cluster; one that this process has already joined (`ray.init`) is used, whatever the address.

        Args:
            address: "auto" for the cluster that `RAY_ADDRESS` names or that runs on this machine, "local" to start one
                on this machine only, or HOST:PORT of its head.
            actors_per_node: processes on each node that has the CPUs for them; one keeps as many requests in flight as
                `evaluate` in a process does. More of them help if verifiers or programs take much time in Python.
            cpus: of each actor, in Ray's count: 0 is allowed.

        Raises:
            ConfigError: an invalid argument.
            MissingExtra: Ray is not installed.
            ExecutorError: there is no cluster at the address, or none of its nodes has a CPU for an actor.
        """
        self.actors_per_node = whole_number("RayExecutor(", "actors_per_node", actors_per_node)
        if not is_number(cpus) or not 0 <= cpus < float("inf"):
            raise ConfigError(f"`RayExecutor(cpus={cpus!r})` must be a number of CPUs, such as 1")
        self.cpus = cpus
        if not isinstance(address, str) or not address or "://" in address:
            raise ConfigError(
                f'`RayExecutor(address={address!r})` must be "auto", "local" or HOST:PORT; Ray Client (ray://) is not '
                "used: run the driver in the cluster, with `ray job submit`"
            )
        self._own = join(address)
        self._lock = threading.RLock()
        self._seats: list[Seat] = []
        self._together: dict[tuple[str, int], tuple[Seat, int]] = {}
        """The actor of each running question and repeat, and the number of its rows."""
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._looked = -LOOK
        self._losses: Counter[str] = Counter()
        """How many actors ended for good, by node."""
        self._why: BaseException | None = None
        self._warned = False
        self._closed = False
        try:
            self._check_nodes()
            if not self._seats:
                raise ExecutorError(
                    f"`RayExecutor(address={address!r})`: no node of the cluster has {self.cpus:g} CPUs for an actor"
                )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the actors, and a cluster that was started here. Further calls do nothing."""
        import ray

        with self._lock:
            seats, self._seats, closed, self._closed = self._seats, [], self._closed, True
        if closed or not ray.is_initialized():
            return
        for seat in seats:
            with suppress(Exception):  # already gone
                ray.kill(seat.handle)
        if self._own:
            ray.shutdown()

    @property
    def actors(self) -> int:
        """The number of actors, including those that are being restarted."""
        return len(self._seats)

    def places(self) -> list[str]:
        """Where each actor runs, as "process 17 on node-3"; waits for actors that are being started.

        Raises ExecutorError if there is none.
        """
        found = []
        for seat in list(self._seats):
            with suppress(*lost_errors()):
                found.append(seat.hello.result())
        self._check_nodes()
        return found

    def side_by_side(self, rows: int) -> int:
        """See `Executor`."""
        return rows * max(1, self.actors)

    def rows(
        self,
        program: dspy.Module,
        verifier: Verifier,
        settings: RowSettings = DEFAULT,
        *,
        on_texts: OnTexts | None = None,
    ) -> Rows:
        """See `Executor`.

        Raises:
            ConfigError: the session's store is in memory, or a part of the program cannot be sent to another process.
            StoreError: the store's folder cannot be written.
        """
        import ray

        store = calls.current().store
        if store.storage is None and store.keeps:
            raise ConfigError(
                "`executor=RayExecutor(...)` with calls in memory, which a cluster cannot share: give a `run_dir` (or "
                '`store=Rollouts(...)`) in a folder that all its machines see, or `Rollouts("postgresql://...")`'
            )
        chosen = {name: dspy.settings.get(name) for name in SETTINGS if name in dspy.settings}
        with luggage.packed() as packed:
            try:
                parcel = ray.put(Parcel(program, verifier, chosen))
            except Exception as error:
                parts = {"the program": program, "the verifier": verifier}
                parts |= {f"`dspy.settings.{name}`": value for name, value in chosen.items()}
                why = unsendable(parts) or (
                    f"program, verifier and language model cannot be sent together to another process: {refusal(error)}"
                )
                raise ConfigError(
                    f"`executor=RayExecutor(...)`: {why}. Make what cannot be sent (a lock, a client, an open file) "
                    "when it is first used, or leave it out of what is pickled with `__getstate__`"
                ) from error
        mark = None
        if store.folder is not None:
            mark = f".driver-{uuid4().hex}"
            try:
                (store.folder / mark).touch()
            except OSError as error:
                raise StoreError(f"{store.folder} cannot be written: {error.strerror or error}") from error
        storage = None if store.storage is None else str(store.folder.resolve() if store.folder else store.storage)
        order = Order(
            key=uuid4().hex,
            parcel=(parcel,),
            secrets=packed.secrets,
            settings=settings,
            texts=on_texts is not None,
            storage=storage,
            mark=mark,
        )
        return _RemoteRows(self, order, on_texts)

    # --- assignment of rows ---

    async def take(self, together: tuple[str, int], most: int) -> Seat:
        """A seat for a row, once one has room: at most `most` rows each, more for rows that belong together.

        Raises ExecutorError if there is none any more.
        """
        began = time.monotonic()
        while True:
            with self._lock:
                self._check_nodes()
                seat = self._choose(together, most)
                if seat is not None:
                    seat.rows += 1
                    self._together[together] = (seat, self._together.get(together, (seat, 0))[1] + 1)
                    return seat
                loop = asyncio.get_running_loop()
                freed: asyncio.Future[None] = loop.create_future()
                self._waiting.append((loop, freed))
                idle = not any(seat.ready for seat in self._seats)
            try:
                came, _ = await asyncio.wait([freed], timeout=LOOK)
                if not came and idle and not self._warned and time.monotonic() - began > STARTING:
                    self._warned = True
                    why = await asyncio.to_thread(why_none_runs, self.actors, self.cpus)
                    logger.warning("no actor runs yet: %s", why)
            finally:
                with self._lock:
                    self._waiting = [entry for entry in self._waiting if entry[1] is not freed]

    def give(self, seat: Seat, together: tuple[str, int]) -> None:
        """A row of a seat has ended."""
        with self._lock:
            seat.rows -= 1
            own, count = self._together[together]
            if count > 1:
                self._together[together] = (own, count - 1)
            else:
                del self._together[together]
        self._wake()

    def _wake(self) -> None:
        """Wake the waiters for a seat."""
        with self._lock:
            for loop, freed in self._waiting:
                with suppress(RuntimeError):  # its loop has ended
                    loop.call_soon_threadsafe(_done, freed)

    def died(self, seat: Seat, life: int, error: BaseException) -> None:
        """A seat was found dead."""
        with self._lock:
            if life == seat.life and seat in self._seats:
                logger.warning("an actor died (%s); its rows are run by others", type(error).__name__)
                seat.died(life)

    def seats(self) -> list[Seat]:
        """The seats whose actors answer."""
        with self._lock:
            return [seat for seat in self._seats if seat.ready]

    def _choose(self, together: tuple[str, int], most: int) -> Seat | None:
        known = self._together.get(together)
        if known is not None and known[0].ready and known[0] in self._seats:
            return known[0]
        ready = [seat for seat in self._seats if seat.ready and seat.rows < most]
        return min(ready, key=lambda seat: seat.rows) if ready else None

    def _check_nodes(self) -> None:
        """Drop seats that are lost for good; start actors on nodes that have none yet."""
        import ray

        if self._closed or not ray.is_initialized():
            raise ExecutorError("the `RayExecutor` was closed; make another one")
        for seat in [seat for seat in self._seats if seat.lost is not None]:
            self._seats.remove(seat)
            self._losses[seat.node] += 1
            self._why = seat.lost
            logger.warning("an actor is lost: %s", in_a_line(seat.lost))
        if time.monotonic() - self._looked >= LOOK or not self._seats:
            self._looked = time.monotonic()
            for node in ray.nodes():
                there = sum(seat.node == node["NodeID"] for seat in self._seats)
                able = int(node["Resources"].get("CPU", 0) // self.cpus) if self.cpus else self.actors_per_node
                if node["Alive"] and self._losses[node["NodeID"]] < LOSSES:
                    for _ in range(min(self.actors_per_node, able) - there):
                        self._seats.append(self._start(node["NodeID"]))
        if not self._seats and self._why is not None:
            raise ExecutorError(f"no actor of the cluster is left; Ray on the last one: {in_a_line(self._why)}")

    def _start(self, node: str) -> Seat:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        handle = (
            ray.remote(Actor)
            .options(
                num_cpus=self.cpus,
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=100_000,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True),
            )
            .remote([path for path in sys.path if path])
        )
        return Seat(handle, node, self._wake)


class _RemoteRows:
    """The rows of one program on the cluster. See `Rows`."""

    def __init__(self, executor: RayExecutor, order: Order, on_texts: OnTexts | None) -> None:
        self.executor = executor
        self.order = order
        self.on_texts = on_texts
        self.misconfigured: ConfigError | None = None
        self.refused: set[tuple[str, int]] = set()

    async def row(self, example: dspy.Example, name: str, repeat: int) -> Row:
        """See `Rows`."""
        reply = await self._request(example, name, repeat)
        if reply.store is not None:
            raise StoreError(reply.store)
        if reply.unusable is not None:
            raise ConfigError(
                f"the program cannot be used in the cluster: {reply.unusable}. What is imported must be importable on "
                "all its machines: install it there, or submit it with `ray job submit --working-dir`"
            )
        if reply.texts is not None and self.on_texts is not None:
            with suppress(Exception):  # as in this process: must not fail the row
                self.on_texts(reply.texts)
        if reply.refused is not None:
            self.refused.add((name, repeat))
            self.misconfigured = self.misconfigured or _again(*reply.refused)
        assert reply.row is not None
        on_response = calls.current().on_response
        if on_response is not None:
            for call in reply.row.calls:
                if not call.reused:
                    on_response(call.usage)
        return reply.row

    async def _request(self, example: dspy.Example, name: str, repeat: int) -> Reply:
        import ray

        together, last = (name, repeat), None
        for attempt in range(LIVES):
            seat = await self.executor.take(together, self.order.settings.in_flight)
            life = seat.life
            try:
                asked = seat.handle.row.remote(self.order, example, name, repeat, attempt > 0)
                try:
                    return await asked
                except asyncio.CancelledError:
                    with suppress(Exception):  # the cluster may be gone
                        ray.cancel(asked)
                    raise
            except lost_errors() as error:
                last = error
                self.executor.died(seat, life, error)
            finally:
                self.executor.give(seat, together)
        raise ExecutorError(
            f"{LIVES} actors died while they ran question {name!r}, repeat {repeat}; what is finished is kept. Ray "
            f"says of the last: {in_a_line(last)}"
        )

    async def settle(self) -> None:
        """See `Rows`. A dead actor's calls were passed to the operating system when they were made."""
        asked = [seat.handle.settle.remote(self.order) for seat in self.executor.seats()]
        for one in asked:
            with suppress(*lost_errors()):
                why = await one
                if why is not None:
                    raise StoreError(why)

    def close(self) -> None:
        """See `Rows`."""
        for seat in self.executor.seats():
            with suppress(Exception):  # the cluster may be gone
                seat.handle.forget.remote(self.order.key)
        if self.order.mark is not None and self.order.storage is not None:
            with suppress(OSError):
                os.unlink(os.path.join(self.order.storage, self.order.mark))


def _again(kind: type[Exception], text: str) -> ConfigError:
    """An actor's error as one of this process."""
    if not issubclass(kind, ConfigError):
        return ConfigError(text)
    error: ConfigError = kind.__new__(kind, text)  # some take arguments other than their message
    return error


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
