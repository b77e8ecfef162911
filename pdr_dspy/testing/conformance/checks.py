"""The contract of a check."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Mapping
from typing import Any

from pdr_dspy import calls
from pdr_dspy.calls.failures import CallError
from pdr_dspy.errors import ConfigError, DataError
from pdr_dspy.operators import BestOfN
from pdr_dspy.operators.outcome import Stop
from pdr_dspy.prompts.roles import Role
from pdr_dspy.runtime import event_loop
from pdr_dspy.testing.scripted import scripted_lm
from pdr_dspy.text.token_estimate import estimate_tokens
from pdr_dspy.verifiers.base import Score
from pdr_dspy.verifiers.checks import AsyncCheck, as_check

_NOTHING: tuple[Any, ...] = (None, "", "   ", "\n\n")
"""Values that answer no question."""
_STRANGE: tuple[Any, ...] = (
    "I do not know.",
    "?" * 5000,
    "\x00\x1b[0m",
    "\ud800",
    "。" * 300,
    [],
    {},
    10**400,
    object(),
)
"""Values that an answer field may hold."""
_FEEDBACK = 1024
"""The largest number of tokens of a feedback."""


def check_check(
    part: AsyncCheck | str,
    inputs: Mapping[str, Any],
    *,
    right: Mapping[str, Any],
    wrong: Mapping[str, Any],
) -> None:
    """Raise AssertionError if a check violates its contract.

    Args:
        part: the check, or the name of a registered check.
        inputs: inputs of a task whose answers it can check.
        right: outputs that must score above `wrong`.
        wrong: outputs that must score below `right`.

    The contract: a score is a `Score` in [0, 1] with a text as its detail and a bounded feedback or none; right scores
    above wrong; a missing answer scores below the right one; only CallError and DataError are raised, for any answer;
    an answer scores the same alone, among others and concurrently, and no argument is changed; its calls report their
    tokens, or that they are unknown; a copy of it is equal and scores the same; `describe()`, if it exists, is JSON and
    names its kind; a program with it returns the right answer.
    """
    check: Any = as_check(part)
    name = type(check).__name__
    assert callable(getattr(check, "acheck", None)), f"{name}: a check needs a method `acheck(inputs, outputs)`"
    event_loop.run(lambda: _check(check, name, inputs, right, wrong))
    _check_description(check, name)
    _check_program(check, name, inputs, right, wrong)


async def _check(
    check: Any, name: str, inputs: Mapping[str, Any], right: Mapping[str, Any], wrong: Mapping[str, Any]
) -> None:
    with calls.session(store=None):
        good, bad = await _scores(check, name, inputs, [right, wrong])
        assert good > bad, f"{name}: right scores {float(good):g}, wrong {float(bad):g}"
        again = await _scores(check, name, inputs, [right, wrong])
        copied = await _scores(copy.deepcopy(check), name, inputs, [right, wrong])
        assert [*map(float, again)] == [*map(float, copied)] == [float(good), float(bad)], (
            f"{name}: a second call, or a copy, scores the same answers differently"
        )
        assert copy.deepcopy(check) == check, f"{name}: a copy of it is not equal; make it a frozen dataclass"
        if getattr(check, "relative", False):
            return
        many = await asyncio.gather(*(_scored(check, name, inputs, one) for one in (right, wrong) * 4))
        assert [*map(float, many)] == [float(good), float(bad)] * 4, f"{name}: concurrent calls score differently"
        for value in (*_NOTHING, *_STRANGE):
            outputs = dict.fromkeys(right, value)
            try:
                score = await _scored(check, name, inputs, outputs)
            except (CallError, DataError):
                continue
            nothing = value is None or (isinstance(value, str) and not value.strip())
            assert not nothing or score < good, f"{name}: {value!r} is no answer, and scores {float(score):g}"


async def _scores(check: Any, name: str, inputs: Mapping[str, Any], outputs: list[Mapping[str, Any]]) -> list[Score]:
    """The scores of a round, in one call if the check supports it."""
    if not hasattr(check, "acheck_all"):
        return [await _scored(check, name, inputs, one) for one in outputs]
    before = repr((inputs, outputs))
    found = list(await check.acheck_all(inputs, outputs))
    assert repr((inputs, outputs)) == before, f"{name}: it changed its arguments"
    assert len(found) == len(outputs), f"{name}: `acheck_all` gave {len(found)} scores for {len(outputs)} answers"
    if not getattr(check, "relative", False):
        alone = [await _scored(check, name, inputs, one) for one in outputs]
        assert [*map(float, alone)] == [*map(float, found)], f"{name}: `acheck` and `acheck_all` score differently"
    return [_is_score(one, name) for one in found]


async def _scored(check: Any, name: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
    before = repr((inputs, outputs))
    try:
        score = await check.acheck(inputs, outputs)
    except (CallError, DataError, ConfigError):
        raise
    except Exception as error:
        raise AssertionError(
            f"{name}: it raised {type(error).__name__} for {repr(dict(outputs))[:120]}: {error}. An unreadable "
            "answer must score 0"
        ) from error
    assert repr((inputs, outputs)) == before, f"{name}: it changed its arguments"
    return _is_score(score, name)


def _is_score(score: Any, name: str) -> Score:
    if isinstance(score, Exception):
        raise AssertionError(f"{name}: an answer got no score: {score}") from score
    assert isinstance(score, Score), f"{name}: it returned {type(score).__name__}, not a `Score`"
    assert isinstance(score.detail, str), f"{name}: the detail of a score must be a text, got {score.detail!r}"
    tokens = estimate_tokens(score.feedback or "")
    assert tokens <= _FEEDBACK, f"{name}: a feedback of {tokens} tokens is too long for a workspace"
    for call in score.calls:
        assert call.failure is None, f"{name}: a call of a score failed: {call.failure}"
        negative = min(call.usage.input or 0, call.usage.output or 0) < 0
        assert not negative, f"{name}: a usage of {call.usage}"
    return score


def _check_description(check: Any, name: str) -> None:
    describe = getattr(check, "describe", None)
    if describe is None:
        return
    described = describe()
    try:
        plain = json.loads(json.dumps(described))
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{name}: `describe()` is not JSON: {error}") from error
    assert isinstance(plain.get("kind"), str), f'{name}: `describe()` must name the check under "kind", got {plain}'
    assert describe() == described, f"{name}: `describe()` must not change from call to call"


def _check_program(
    check: Any, name: str, inputs: Mapping[str, Any], right: Mapping[str, Any], wrong: Mapping[str, Any]
) -> None:
    """Run a program of two drafts, one of which is right."""
    fields = [key for key in right if key != "solution" and key not in inputs]
    first: list[int] = []

    def reply(request: Any) -> str:
        first[:] = first or [request.seed]
        chosen = right if (request.seed - min(first)) % 2 else wrong
        text = chosen.get("solution")
        return text if isinstance(text, str) else "\n".join(f"{key}: {chosen[key]}" for key in fields)

    if not all(isinstance(one.get(key), str) for one in (right, wrong) for key in fields) or not fields:
        return  # a scripted text can only express string outputs
    signature = f"{', '.join(inputs)} -> {', '.join(fields)}"
    program = BestOfN(signature, n=2, check=check, draft_tokens=4096)
    program.predictor(Role.DRAFT).lm = scripted_lm(reply, directly=True)
    with calls.session(store=None):
        prediction = program(**inputs)
    scores = [draft.score for draft in prediction.rounds[0].drafts]
    assert None not in scores, f"{name}: a draft of a program could not be checked: {prediction.rounds[0].drafts}"
    assert prediction.stop is Stop.DONE, f"{name}: a program with it ended with {prediction.stop}"
    assert all(prediction[key] == right[key] for key in fields), (
        f"{name}: a program answers with {[prediction[key] for key in fields]}, which does not score highest: {scores}"
    )
