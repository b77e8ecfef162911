"""The contract of a data set."""

from __future__ import annotations

import json
from collections.abc import Callable

import dspy

from pdr_dspy import datasets
from pdr_dspy.calls.dspy_bridge import input_names
from pdr_dspy.datasets import DATASETS, Dataset
from pdr_dspy.errors import DataError
from pdr_dspy.verifiers import Verifier, load_verifier

_GRADED = 20
"""Number of examples of a split whose gold answers are graded by the verifier."""


def check_dataset(
    part: Dataset | str,
    *,
    verifier: Verifier | None = None,
    right: Callable[[dspy.Example], dspy.Prediction] | None = None,
) -> None:
    """Raise AssertionError if a data set violates its contract.

    Args:
        part: the result of `@pdr_dspy.dataset`, or a name for `pdr_dspy.datasets.load`.
        verifier: the verifier that grades it; by default the one that the set names.
        right: returns the right prediction for an example; by default the gold answer in the verifier's field.

    The contract: every split has examples; each example marks its inputs, which are not empty; ids are unique in the
    set; all fields are plain JSON, so that the set has a fingerprint; reading it again yields the same examples in the
    same order, `limit` the first of them, and `seed` all of them in a reproducible other order; no question is in two
    splits; the verifier can grade against every gold answer, and accepts it.
    """
    name = part if isinstance(part, str) else part.info.name
    if isinstance(part, Dataset):
        assert name in DATASETS, f"{name} is not registered: make it with `@pdr_dspy.dataset({name!r}, verifier=...)`"
        assert DATASETS.find(name) is part, f"{name}: another data set is registered by this name"
    known = datasets.info(name)
    graded = verifier or _verifier_of(known.verifier, name)
    seen: dict[str, str] = {}
    questions: dict[str, str] = {}
    for split in known.splits or (None,):
        where = f"{name}, split {split}" if split else name
        examples = _load(name, split, where)
        assert examples, f"{where}: it has no examples"
        for number, example in enumerate(examples, start=1):
            place = f"{where}, example {number}"
            _check_example(example, place)
            identity = str(example.get("id") or place)
            assert identity not in seen, f"{place}: the id {identity!r} was already used in {seen[identity]}"
            seen[identity] = place
            question = json.dumps(dict(example.inputs().items()), sort_keys=True, default=str)
            first = questions.setdefault(question, where)
            assert first == where, f"{place}: the question is also in {first}"
        _check_order(name, split, where, examples)
        for example in examples[:_GRADED]:
            _check_gold(graded, example, where, right)
        for example in examples[_GRADED:]:
            _check_readable(graded, example, where)


def _verifier_of(kind: str, name: str) -> Verifier:
    assert kind, f"{name}: it names no verifier; give one: `check_dataset(..., verifier=...)`"
    try:
        return load_verifier({"kind": kind})
    except Exception as error:
        raise AssertionError(f"{name}: its verifier {kind!r} cannot be made: {error}") from error


def _load(name: str, split: str | None, where: str) -> list[dspy.Example]:
    try:
        return datasets.load(name, split=split)
    except Exception as error:
        raise AssertionError(f"{where}: `load` raised {type(error).__name__}: {error}") from error


def _check_example(example: dspy.Example, place: str) -> None:
    assert isinstance(example, dspy.Example), f"{place} is a {type(example).__name__}, not a `dspy.Example`"
    inputs = input_names(example)
    assert inputs, f"{place} does not say which fields are inputs; use `.with_inputs(...)`"
    missing = [key for key in inputs if key not in example]
    assert not missing, f"{place} marks {missing[0]!r} as an input, but has no such field"
    for key, value in example.inputs().items():
        assert value not in (None, ""), f"{place}: the input {key!r} is empty"
    try:
        json.dumps(dict(example.items()), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{place} holds a value that is not JSON: {error}") from error


def _check_order(name: str, split: str | None, where: str, examples: list[dspy.Example]) -> None:
    def plain(some: list[dspy.Example]) -> list[dict[str, object]]:
        return [dict(example.items()) for example in some]

    whole = plain(examples)
    again = plain(_load(name, split, where))
    assert again == whole, f"{where}: reading it again gave other examples, or another order"
    some = max(1, len(whole) // 2)
    assert plain(datasets.load(name, split=split, limit=some)) == whole[:some], f"{where}: `limit` gives other examples"
    shuffled = plain(datasets.load(name, split=split, seed=1))
    assert shuffled == plain(datasets.load(name, split=split, seed=1)), f"{where}: `seed=1` gave two orders"
    if not name.startswith("rg:"):  # a seed generates other problems
        assert sorted(map(repr, shuffled)) == sorted(map(repr, whole)), f"{where}: `seed` changed the set of examples"


def _check_readable(verifier: Verifier, example: dspy.Example, where: str) -> None:
    try:
        verifier.check_gold(example)
    except DataError as error:
        raise AssertionError(f"{where}: its verifier cannot grade against a gold answer: {error}") from error


def _check_gold(
    verifier: Verifier, example: dspy.Example, where: str, right: Callable[[dspy.Example], dspy.Prediction] | None
) -> None:
    _check_readable(verifier, example, where)
    if right is None:
        gold, field = getattr(verifier, "gold", "answer"), getattr(verifier, "field", "answer")
        prediction = dspy.Prediction(**{field: example[gold]})
    else:
        prediction = right(example)
    score = verifier(example, prediction)
    assert score >= 1.0, (
        f"{where}: its verifier scores the right answer of {example.get('id')!r} {float(score):g} ({score.detail})"
    )
