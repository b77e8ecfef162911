"""Executors without a cluster: what they refuse, and what an actor says of what it was sent. See tests/test_ray.py."""

from __future__ import annotations

import asyncio
import builtins
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy import evaluate
from pdr_dspy.errors import ConfigError, MissingExtra, PromptTooLong
from pdr_dspy.evaluation.executors import Local, RayExecutor, RowSettings
from pdr_dspy.evaluation.executors import actor as actors
from pdr_dspy.evaluation.executors.actor import Actor, Order, Parcel
from pdr_dspy.operators.strategies import PDR
from tests.evaluation.test_evaluator import Exact, examples
from tests.support.solver import engine


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"address": "ray://head:10001"}, "ray job submit"),
        ({"address": ""}, "HOST:PORT"),
        ({"address": None}, "HOST:PORT"),
        ({"actors_per_node": 0}, "actors_per_node"),
        ({"cpus": -1}, "cpus"),
        ({"cpus": float("nan")}, "cpus"),
        ({"cpus": True}, "cpus"),
    ],
)
def test_arguments_that_cannot_work(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RayExecutor(**arguments)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    known = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "ray":
            raise ImportError(name)
        return known(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"pdr-dspy\[ray\]"):
        RayExecutor()


def test_this_process_is_the_default() -> None:
    def rows(**more: Any) -> list[dict[str, Any]]:
        with dspy.context(lm=engine()):
            report = evaluate(PDR("question -> answer", widths=(3, 1)), examples(3), Exact(), **more)
        return [row.model_dump(exclude={"seconds", "calls"}) for row in report.rows]

    assert rows() == rows(executor=Local())


class Parcels:
    """Stands in for the fetching of a parcel."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(actors, "fetched", self.fetched)
        self.fetches = 0

    def fetched(self, order: Order, known: dict[str, Any]) -> Parcel:
        self.fetches += 1
        found = order.parcel[0]
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def parcels(monkeypatch: pytest.MonkeyPatch) -> Parcels:
    return Parcels(monkeypatch)


def order(parcel: Any, **more: Any) -> Order:
    given: dict[str, Any] = {
        "key": "k", "parcel": (parcel,), "secrets": {}, "settings": RowSettings(threads=2, in_flight=4),
        "texts": False, "storage": None, "mark": None,
    }  # fmt: skip
    return Order(**{**given, **more})


def parcel(**more: Any) -> Parcel:
    program = PDR("question -> answer", widths=(3, 1), **more)
    return Parcel(program, Exact(), {"lm": engine(context_length=2000)})


def test_a_parcel_is_fetched_once_for_all_rows(parcels: Parcels) -> None:
    async def run() -> list[Any]:
        actor = Actor([])
        asked = [actor.row(order(parcel(), texts=True), one, one.id, 0, False) for one in examples(5)]
        return await asyncio.gather(*asked)

    replies = asyncio.run(run())
    assert [reply.row.id for reply in replies] == [one.id for one in examples(5)]
    assert [reply.texts.id for reply in replies] == [one.id for one in examples(5)]
    assert parcels.fetches == 1


def test_a_program_that_cannot_be_unpacked_is_reported(parcels: Parcels) -> None:
    one = examples(1)[0]
    reply = asyncio.run(Actor([]).row(order(ModuleNotFoundError("no mine")), one, "e", 0, False))
    assert reply.row is None
    assert reply.unusable is not None
    assert "ModuleNotFoundError: no mine" in reply.unusable


def test_another_folder_of_that_name_is_refused(parcels: Parcels, tmp_path: Path) -> None:
    (tmp_path / ".driver-1").touch()
    one = examples(1)[0]
    same = order(parcel(), storage=str(tmp_path), mark=".driver-1")
    other = order(parcel(), storage=str(tmp_path), mark=".driver-2")
    assert asyncio.run(Actor([]).row(same, one, "e", 0, False)).row is not None
    reply = asyncio.run(Actor([]).row(other, one, "e", 0, False))
    assert reply.row is None
    assert "is a different one on" in (reply.store or "")


def test_why_a_question_does_not_fit_comes_back_as_it_was(parcels: Parcels) -> None:
    from pdr_dspy.evaluation.executors.on_ray import _again

    one = examples(1)[0]
    reply = asyncio.run(Actor([]).row(order(parcel()), one, "e", 0, False))
    assert reply.row is not None
    assert reply.row.error is not None
    assert reply.refused is not None
    error = _again(*reply.refused)
    assert isinstance(error, PromptTooLong)
    assert str(error) in reply.row.error
    assert isinstance(_again(MissingExtra, "needs it"), MissingExtra)
