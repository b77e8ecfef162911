"""The contract of a verifier."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy

from pdr_dspy.calls.dspy_bridge import input_names
from pdr_dspy.errors import DataError
from pdr_dspy.verifiers import Score, Verifier, load_verifier

_UNREADABLE = (
    None,
    "",
    "   ",
    "\n\n",
    "I do not know.",
    "?" * 5000,
    "\\boxed{",
    "\x00\x1b[0m",
    "。" * 300,
    [],
    {},
    10**400,
)
"""Values of an answer field that answer no question."""
_THREADS = 8


def check_verifier(
    part: Verifier,
    examples: Sequence[dspy.Example],
    *,
    right: Callable[[dspy.Example], dspy.Prediction] | None = None,
    wrong: Callable[[dspy.Example], dspy.Prediction] | None = None,
    lm: dspy.LM | None = None,
) -> None:
    """Raise AssertionError if a verifier violates its contract.

    Args:
        part: the verifier.
        examples: a few examples with gold answers that it can grade against.
        right: returns the right prediction for an example. By default the gold answer, read from the verifier's field
            `gold` (`answer` if it has no such setting), in the field `field`.
        wrong: returns a wrong prediction for an example; None leaves this case out.
        lm: the language model of a verifier that needs one.

    The contract: `check_gold` accepts the examples, and raises only DataError for an example without a gold answer; the
    gold answer scores 1; a score is a `Score` in [0, 1] with a text as its detail; an unreadable answer scores below 1
    and raises nothing; the same prediction always scores the same, also in concurrent threads, and neither the example
    nor the prediction changes; `describe()` is JSON, and `load_verifier` rebuilds an equal verifier from it.
    """
    name = type(part).__name__
    assert examples, f"{name}: give at least one example that it can grade"
    for method in ("check_gold", "describe"):
        assert callable(getattr(part, method, None)), f"{name}: a verifier needs a method `{method}`"
    for example in examples:
        try:
            part.check_gold(example)
        except DataError as error:
            raise AssertionError(f"{name}: `check_gold` refuses an example of `examples`: {error}") from error
    _check_missing_gold(part, name, examples[0])
    gold, field = getattr(part, "gold", "answer"), getattr(part, "field", "answer")
    for example in examples:
        prediction = dspy.Prediction(**{field: example[gold]}) if right is None else right(example)
        score = _scored(part, name, example, prediction)
        assert score >= 1.0, (
            f"{name}: the gold answer must pass its own verifier; {_shown(prediction)} scores {score!r} for "
            f"{_shown(example)}"
        )
        if wrong is not None:
            score = _scored(part, name, example, wrong(example))
            assert score < 1.0, f"{name}: {_shown(wrong(example))} is wrong, and scores {score!r} for {_shown(example)}"
        for bad in _unreadable(field):
            score = _scored(part, name, example, bad)
            assert score < 1.0, f"{name}: {_shown(bad)} is no answer, and scores {score!r} for {_shown(example)}"
    _check_threads(part, name, examples, field, gold, right)
    _check_description(part, name, lm)


def _check_missing_gold(part: Verifier, name: str, example: dspy.Example) -> None:
    inputs = input_names(example) & set(example.keys())
    bare = dspy.Example(**{key: value for key, value in example.items() if key in inputs}).with_inputs(*inputs)
    try:
        part.check_gold(bare)
    except DataError:
        pass
    except Exception as error:
        raise AssertionError(
            f"{name}: `check_gold` of an example without a gold answer must raise DataError, got "
            f"{type(error).__name__}: {error}"
        ) from error


def _scored(part: Verifier, name: str, example: dspy.Example, prediction: dspy.Prediction) -> Score:
    before = copy.deepcopy((dict(example.items()), dict(prediction.items())))
    try:
        score, again = part(example, prediction), part(example, prediction, None)
    except Exception as error:
        raise AssertionError(
            f"{name}: it raised {type(error).__name__} for {_shown(prediction)}: {error}. An unreadable answer "
            "must score 0"
        ) from error
    assert isinstance(score, Score), f"{name}: it returned {type(score).__name__}, not a `Score`"
    assert isinstance(score.detail, str), f"{name}: the detail of a score must be a text, got {score.detail!r}"
    assert float(score) == float(again), f"{name}: {_shown(prediction)} scored {float(score)}, then {float(again)}"
    after = (dict(example.items()), dict(prediction.items()))
    assert repr(after) == repr(before), f"{name}: it changed the example or the prediction that it was given"
    return score


def _unreadable(field: str) -> Iterator[dspy.Prediction]:
    yield dspy.Prediction()
    for value in _UNREADABLE:
        yield dspy.Prediction(**{field: value})


def _check_threads(
    part: Verifier,
    name: str,
    examples: Sequence[dspy.Example],
    field: str,
    gold: str,
    right: Callable[[dspy.Example], dspy.Prediction] | None,
) -> None:
    pairs = []
    for example in examples:
        pairs.append((example, dspy.Prediction(**{field: example[gold]}) if right is None else right(example)))
        pairs.append((example, dspy.Prediction(**{field: "I do not know."})))
    alone = [float(part(*pair)) for pair in pairs]
    with ThreadPoolExecutor(_THREADS) as pool:
        together = list(pool.map(lambda pair: float(part(*pair)), pairs * 3))
    assert together == alone * 3, f"{name}: its scores change when several threads call it at once"


def _check_description(part: Verifier, name: str, lm: dspy.LM | None) -> None:
    described: Any = part.describe()
    try:
        plain = json.loads(json.dumps(described))
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{name}: `describe()` is not JSON: {error}") from error
    assert isinstance(plain, dict), f"{name}: `describe()` must be a mapping, got {type(described).__name__}"
    assert isinstance(plain.get("kind"), str), f'{name}: `describe()` must name the verifier under "kind", got {plain}'
    assert part.describe() == described, f"{name}: `describe()` must not change from call to call"
    try:
        again = load_verifier(plain, lm=lm)
    except Exception as error:
        raise AssertionError(
            f"{name}: `load_verifier(describe())` raised {type(error).__name__}: {error}. Register it with "
            '`@pdr_dspy.verifier(name)`, and give that name as "kind"'
        ) from error
    assert again.describe() == described, f"{name}: after `load_verifier` its `describe()` is {again.describe()}"
    assert again == part, f"{name}: after `load_verifier` it is not equal; make it a frozen dataclass"


def _shown(record: Any) -> str:
    text = repr(dict(record.items()))
    return text if len(text) <= 120 else f"{text[:117]}..."
