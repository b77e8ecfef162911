"""Instructions and demonstrations as axes of a space: validation of their candidates, their names and their display."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import dspy

from pdr_dspy import calls
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.nested import operators_of
from pdr_dspy.prompts.roles import Role, derive

DemoSet: TypeAlias = tuple[dict[str, Any], ...]
"""Demonstrations that a predictor shows together, each the plain fields of one call. () shows none."""

PROMPTS = ("instructions", "demos")
"""The axes with candidates for each role."""


def check_demos(task: type[dspy.Signature], demos: Mapping[str, Iterable[DemoSet]]) -> None:
    """Check that every demonstration can be shown to a role of this task.

    Raises ConfigError, naming the role and the field, for one that lacks an input of the task or has no output: it
    would be left out of the prompt.
    """
    for role, sets in demos.items():
        signature = derive(task, Role(role))
        for demo in itertools.chain.from_iterable(sets):
            missing = [name for name in task.input_fields if demo.get(name) is None]
            if missing:
                raise ConfigError(
                    f"a demonstration for {role!r} has no {missing[0]!r}, which the task takes; "
                    f"it has {', '.join(demo)}"
                )
            outputs = list(signature.output_fields)
            if all(demo.get(name) is None for name in outputs):
                raise ConfigError(f"a demonstration for {role!r} shows no output; give it {' or '.join(outputs)}")


def demos_of(program: dspy.Module) -> dict[str, tuple[DemoSet, ...]]:
    """The demonstrations of a program, one set for each role: candidates for `Space.extend(demos=...)`.

    >>> tuned = BootstrapFewShot(metric=verifier).compile(student, trainset=others)
    >>> space = space.extend(demos=demos_of(tuned))

    Use separate questions (`others`) for the optimizer that makes them: a trial on a question that its demonstrations
    answer is meaningless. `questions_in` lists those questions. With several operators the first is read.

    Raises ConfigError if the program contains no operator, or a demonstration is not plain JSON data.
    """
    found = operators_of(program, f"demos_of({type(program).__name__}())")
    own = {role.value: next(iter(found.values())).__dict__.get(role.value) for role in Role}
    sets = {role: (_plain(f"demos_of(...)[{role!r}]", one.demos),) for role, one in own.items() if one is not None}
    return {role: given for role, given in sets.items() if given[0]}


def questions_in(task: type[dspy.Signature], demos: Mapping[str, Iterable[DemoSet]]) -> set[str]:
    """Identities (`calls.identity`) of the questions in demonstrations."""
    every = itertools.chain.from_iterable(itertools.chain.from_iterable(demos.values()))
    return {calls.identity({name: demo[name] for name in task.input_fields if name in demo}) for demo in every}


def shown(value: str | DemoSet) -> str:
    """The display of a text by its beginning, of a set of demonstrations by its size."""
    if isinstance(value, str):
        text = " ".join(value.split())
        return f'"{text if len(text) <= 32 else text[:28].rstrip() + " ..."}"'
    return f"{len(value)} demonstration{'s' * (len(value) != 1)}"


def key_of(value: Any) -> str:
    """A key that is equal for equal texts, and for equal sets of demonstrations."""
    return json.dumps(value, sort_keys=True)


def only(kind: str, there: Mapping[str, Sequence[Any]], chosen: Any) -> dict[str, tuple[Any, ...]]:
    """The given text or set of each named role, () for a role that keeps the student's own; None names every role."""
    named = dict.fromkeys(there) if not chosen else _by_role("fix", kind, chosen)
    return {
        role: () if one is None else _candidates(f"Space.fix({kind}={{{role!r}: ...}})", kind, (one,))
        for role, one in named.items()
    }


def fewer(kind: str, there: Mapping[str, Sequence[Any]], kept: Any) -> dict[str, Any]:
    """The axis with fewer candidates for the named roles. Raises ConfigError for a candidate that is not in it."""
    changed: dict[str, Any] = dict(there)
    for role, values in _by_role("narrow", kind, kept).items():
        where = f"Space.narrow({kind}={{{role!r}: ...}})"
        changed[role] = _candidates(where, kind, values)
        known = {key_of(value) for value in there.get(role, ())}
        if any(key_of(value) not in known for value in changed[role]):
            raise ConfigError(f"`{where}` has a candidate that is not in the space; use `extend`")
    return changed


def more(kind: str, there: Mapping[str, Sequence[Any]], added: Any, *, method: str = "Space.extend") -> dict[str, Any]:
    """The axis with additional candidates for the named roles, without duplicates."""
    changed: dict[str, Any] = dict(there)
    for role, values in _by_role("extend", kind, added).items():
        new = _candidates(f"{method}({kind}={{{role!r}: ...}})", kind, values)
        changed[role] = tuple({key_of(value): value for value in (*there.get(role, ()), *new)}.values())
    return changed


def listed(where: str, values: Any) -> tuple[Any, ...]:
    """Several candidates. Rejects a text, which would be split, and a single number, which would fail later."""
    if isinstance(values, (str, Mapping, dspy.Example)) or not isinstance(values, Iterable):
        raise ConfigError(f"`{where}` must be a list of candidates, even for a single one")
    return tuple(values)


def _by_role(method: str, kind: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"`Space.{method}({kind}={value!r})` must map roles ({', '.join(Role)}) to candidates")
    return value


def _candidates(where: str, kind: str, values: Any) -> tuple[Any, ...]:
    """Candidates of one role, demonstrations as plain JSON data."""
    several = listed(where, values)
    if kind == "demos":
        return tuple(_plain(where, demos) for demos in several)
    for text in several:
        if not isinstance(text, str):
            raise ConfigError(f"`{where}` has {text!r}, which is not a text")
    return several


def _plain(where: str, demos: Any) -> DemoSet:
    if isinstance(demos, (str, Mapping, dspy.Example)) or not isinstance(demos, Iterable):
        raise ConfigError(f"`{where}` must list sets of demonstrations, and a set is a list too: ([{{...}}, ...],)")
    try:
        return tuple(json.loads(json.dumps(dict(demo), allow_nan=False)) for demo in demos)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"`{where}` has a demonstration that is not a mapping of plain JSON data: {error}") from error
