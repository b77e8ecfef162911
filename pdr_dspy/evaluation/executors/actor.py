"""The code that runs in each process of a Ray cluster: it runs rows of any program and writes no files but the store.

An actor holds programs, verifiers and connections as long as their rows are requested, and the store, to which it
appends its own calls. It may die at any time: a restarted actor is sent the same again.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import dspy

from pdr_dspy import calls
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.errors import StoreError
from pdr_dspy.evaluation.executors.base import RowSettings
from pdr_dspy.evaluation.records import Row
from pdr_dspy.evaluation.runner import Runner
from pdr_dspy.evaluation.texts import RowTexts
from pdr_dspy.runtime import luggage
from pdr_dspy.runtime.postgres import is_url


class Parcel(NamedTuple):
    """Objects that are sent to an actor once."""

    program: dspy.Module
    verifier: Any
    settings: Mapping[str, Any]
    """DSPy's settings, such as its language model and adapter."""


@dataclass(frozen=True)
class Order:
    """The description that is sent with every row."""

    key: str
    parcel: tuple[Any, ...]
    """A reference to the `Parcel`; inside a tuple, so that Ray does not fetch it again for every row."""
    secrets: Mapping[str, Any] = field(repr=False)
    """Secrets of the parcel's objects. They are in no file, environment or display of the cluster, only in the memory
    of its processes."""
    settings: RowSettings
    texts: bool
    storage: str | None = field(repr=False)
    """A folder or URL, which may hold a password; None keeps no calls."""
    mark: str | None
    """A file in the folder, which proves that it is the same folder on every machine."""


class Reply(NamedTuple):
    """The outcome of a row."""

    row: Row | None
    texts: RowTexts | None = None
    refused: tuple[type[Exception], str] | None = None
    """Why the program cannot run on the example."""
    store: str | None = None
    """Why the store cannot be used here; there is no row then."""
    unusable: str | None = None
    """Why the program cannot be used here; there is no row then."""


class _Kept(NamedTuple):
    runner: Runner
    settings: Mapping[str, Any]
    store: Rollouts | None
    texts: dict[tuple[str, int], RowTexts]


class Actor:
    """One process of the cluster. Its methods are called by `on_ray`, through Ray."""

    def __init__(self, paths: Sequence[str]) -> None:
        """Take the driver's `sys.path` entries that exist here too, so that the user's modules are importable as
        there."""
        sys.path += [path for path in paths if path not in sys.path and os.path.isdir(path)]
        self._kept: dict[str, asyncio.Future[_Kept]] = {}
        self._stores: dict[str, Rollouts] = {}
        self._known: dict[str, Any] = {}
        self._places: dict[int, asyncio.Semaphore] = {}

    async def hello(self) -> str:
        """The location of this process, in words."""
        return f"process {os.getpid()} on {socket.gethostname()}"

    async def row(self, order: Order, example: dspy.Example, name: str, repeat: int, again: bool) -> Reply:
        """Run one example once. `again`: another actor may have made some of its calls."""
        try:
            kept = await self._keep(order)
        except StoreError as error:
            return Reply(None, store=str(error))
        except Exception as error:
            why = next(iter(str(error).splitlines()), "")  # Ray adds its own traceback
            return Reply(None, unusable=f"{await self.hello()}: {type(error).__name__}: {why}")
        runner, store = kept.runner, kept.store
        in_flight, sharing = order.settings.in_flight, order.settings.sharing
        places = self._places.setdefault(in_flight, asyncio.Semaphore(in_flight))
        try:
            if store is not None and (sharing or again):
                await asyncio.to_thread(store.refresh)
            with dspy.context(**kept.settings), calls.session(store=store, in_flight=places):
                row = await runner.row(example, name, repeat)
            if store is not None and sharing:
                await asyncio.to_thread(store.sync)
        except StoreError as error:
            return Reply(None, store=str(error))
        finally:
            texts = kept.texts.pop((name, repeat), None)
        error = runner.misconfigured if (name, repeat) in runner.refused else None
        return Reply(row, texts, None if error is None else (type(error), str(error)))

    async def settle(self, order: Order) -> str | None:
        """Return when the calls made here are on the disk; otherwise why they are not."""
        store = None if order.storage is None else self._stores.get(order.storage)
        try:
            if store is not None:
                await asyncio.to_thread(store.sync)
        except StoreError as error:
            return str(error)
        return None

    async def forget(self, key: str) -> None:
        """Release a program."""
        kept = self._kept.pop(key, None)
        if kept is not None and kept.done() and not kept.cancelled() and kept.exception() is None:
            kept.result().runner.close()

    async def _keep(self, order: Order) -> _Kept:
        if order.key not in self._kept:
            self._kept[order.key] = asyncio.ensure_future(asyncio.to_thread(self._open, order))
        # Rows share this task: if one is cancelled, the others still wait for it.
        return await asyncio.shield(self._kept[order.key])

    def _open(self, order: Order) -> _Kept:
        parcel = fetched(order, self._known)
        texts: dict[tuple[str, int], RowTexts] = {}

        def keep(found: RowTexts) -> None:
            texts[found.id, found.repeat] = found

        runner = Runner(
            parcel.program,
            parcel.verifier,
            seed=order.settings.seed,
            budget=order.settings.budget,
            threads=order.settings.threads,
            on_texts=keep if order.texts else None,
        )
        return _Kept(runner, parcel.settings, self._store_of(order), texts)

    def _store_of(self, order: Order) -> Rollouts | None:
        if order.storage is None:
            return None
        if order.mark is not None and not (Path(order.storage) / order.mark).exists():
            raise StoreError(
                f"the rollouts' folder {order.storage} is a different one on {socket.gethostname()}: put it where all "
                'machines of the cluster see it, or use `Rollouts("postgresql://user@host/database")`'
            )
        if order.storage not in self._stores:
            given = order.storage if is_url(order.storage) else Path(order.storage)
            self._stores[order.storage] = Rollouts(given)
        return self._stores[order.storage]


def fetched(order: Order, known: dict[str, Any]) -> Parcel:
    """The parcel of an order, with its secrets; language models of one server share the connections in `known`."""
    import ray

    near = frozenset({"127.0.0.1", "localhost", socket.gethostname(), ray.util.get_node_ip_address()})
    # Ray logs that this blocks the event loop; it runs in a thread and does not. With await, the parcel would be
    # unpacked in one of Ray's threads, without its luggage.
    with luggage.unpacked(order.secrets, near, known):
        return ray.get(order.parcel[0])
