"""The check that a stored search is the one that resumes it: the description in its journal is that of the problem."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pdr_dspy.calls.store import address
from pdr_dspy.errors import StoreError
from pdr_dspy.runtime.differences import difference
from pdr_dspy.search.problem import VERSION, Problem
from pdr_dspy.search.settings import SearchSettings, keyword_of

REMEDY = "use another `run_dir`"
WHOLE = ("space", "prior")
"""Settings with parts that are no arguments."""
_ARGUMENTS = {"program": "student", "examples": "trainset", "models": "lm"}
"""Names of a description's parts for the user."""


def check(before: Mapping[str, Any], problem: Problem, where: object, *, but: Collection[str] = ()) -> None:
    """Check that the description of a stored search is that of `problem`.

    Args:
        before: the stored description.
        problem: the one to be resumed.
        where: the place of the stored search, for messages.
        but: parts of the description that may differ, by their names for the user.

    Raises StoreError, naming the first difference and both values, if it is not.
    """
    version = before.get("version")
    if version != VERSION:
        raise StoreError(
            f"{where} holds a search of another version of this library: its format is {version!r}, that of this "
            f"version is {VERSION}; {REMEDY}"
        )
    try:
        was, now = _by_argument(before), _by_argument(problem.description)
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{where} holds no search of this version ({error}); {REMEDY}") from error
    changed = [name for name in now if name not in but and was.get(name) != now[name]]
    if changed:
        differs = difference(changed[0], was.get(changed[0]), now[changed[0]])
        raise StoreError(f"{where} holds another search: {differs}; {REMEDY}, or the same arguments to resume it")


def digest(description: Mapping[str, Any]) -> str:
    """A short name for a search: equal for equal descriptions."""
    return address(description)[:16]


def _by_argument(description: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a description by their names for the user; later settings have their defaults."""
    parts = {_ARGUMENTS.get(name, name): description[name] for name in description if name != "settings"}
    for name, value in _completed(SearchSettings().model_dump(mode="json"), description["settings"]).items():
        if isinstance(value, Mapping) and name not in WHOLE:
            parts |= {keyword_of((name, inner)): each for inner, each in value.items()}
        else:
            parts[keyword_of((name,))] = value
    return parts


def _completed(default: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given settings, completed by defaults."""
    return {
        **default,
        **{
            name: _completed(default[name], value)
            if isinstance(value, Mapping) and isinstance(default.get(name), Mapping)
            else value
            for name, value in given.items()
        },
    }
