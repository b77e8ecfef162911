"""The description of a search on its board, so that all processes that work on it run the same search.

The document `config` has the description that the first process wrote, `ends/` the later extensions. A process whose
description differs is refused with the first difference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.runtime.differences import difference
from pdr_dspy.search.problem import VERSION, Problem
from pdr_dspy.search.settings import SAMPLERS, RunOptions, SearchSettings, keyword_of
from pdr_dspy.search.workers.coordination import Board
from pdr_dspy.settings import Settings

CONFIG = "config"
"""The document with the description."""
REMEDY = "use another `run_dir` or `study`"
_ARGUMENTS = {"program": "student", "examples": "trainset", "models": "lm"}
"""Names of a description's parts for the user."""


class Ends(Settings):
    """The end of a search, and its numbers of questions, for processes that join it."""

    trials: int
    max_tokens: int | None
    train: int
    """Training questions."""
    held_out: int
    """Questions of the confirmation."""


class Stored(NamedTuple):
    """A search as described on its board."""

    settings: SearchSettings
    ends: Ends


def ends_here(problem: Problem, options: RunOptions) -> Ends:
    """The end of the search, as this process sets it."""
    questions = {"train": len(problem.train), "held_out": len(problem.held_out)}
    return Ends(trials=options.trials, max_tokens=options.max_tokens, **questions)


def agree(board: Board, problem: Problem, options: RunOptions, *, but: Collection[str] = ()) -> None:
    """Write the description, or check that the one on the board is equal.

    Args:
        board: of the search.
        problem: the search's problem.
        options: of this process.
        but: parts of the description that may differ.

    Raises StoreError if the board describes another search, or its description is damaged.
    """
    there = board.read("")  # a single read: between two, another worker may begin the same search
    if there and CONFIG not in there:  # otherwise measurements of another search could be used
        raise StoreError(
            f"the description of the search in {options.where} is damaged, so it cannot be checked whether it "
            "is this one; remove the folder `board` (its calls are in `rollouts` and not paid again), or "
            f"{REMEDY}"
        )
    ends = ends_here(problem, options).model_dump()
    check(board.put(CONFIG, json.dumps({**problem.description, "ends": ends})), problem, options, but=but)


def extend_ends(board: Board, problem: Problem, options: RunOptions) -> None:
    """Write the new end of the search, if it has changed."""
    ends = ends_here(problem, options)
    if ends_of(board) != ends:
        board.put(f"ends/{len(board.read('ends/')):04d}", json.dumps(ends.model_dump()))


def check(text: str, problem: Problem, options: RunOptions, *, but: Collection[str] = ()) -> None:
    """Check that the description of a search is that of `problem`; see `agree`.

    Raises StoreError, naming the difference and both values, if it is not.
    """
    try:
        before = dict(json.loads(text))
        version = before["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{options.where} is not of a search of this version ({error}); {REMEDY}") from error
    _check_version(version, options)
    was, now = _by_argument(before), _by_argument(problem.description)
    changed = [name for name in now if name not in but and was.get(name) != now[name]]
    if changed:
        differs = difference(changed[0], was.get(changed[0]), now[changed[0]])
        raise StoreError(
            f"{options.where} holds another search: {differs}; {REMEDY}, or the same arguments to resume it"
        )


def ends_of(board: Board) -> Ends | None:
    """The end of the search, as the last `compile` wrote it; None if there is no search of this version."""
    later, text = list(board.read("ends/").values()), board.get(CONFIG)
    try:
        return Ends(**(json.loads(later[-1]) if later else json.loads(text or "")["ends"]))
    except (ValueError, KeyError, TypeError):
        return None


def read_ends(board: Board, options: RunOptions) -> Ends:
    """`ends_of`; raises StoreError if there is no search of this version."""
    if board.get(CONFIG) is None:
        raise no_search(options)
    ends = ends_of(board)
    if ends is None:
        raise StoreError(f"{options.where} holds no search of this version; {REMEDY}")
    return ends


def read(board: Board, options: RunOptions, *, sampler: Callable[[int], Any] | None = None) -> Stored:
    """The search of a board.

    Args:
        board: of the search.
        options: for error messages.
        sampler: the function that proposes candidates, if the search uses a user's.

    Raises StoreError if there is no search, or this process cannot work on it.
    """
    ends = read_ends(board, options)
    try:
        described = json.loads(board.get(CONFIG) or "")
        _check_version(described["version"], options)
        settings: dict[str, Any] = dict(described["settings"])
        stored = settings["sampler"]
        if stored not in SAMPLERS:
            if sampler is None:
                raise StoreError(
                    f"the search in {options.where} has the sampler {stored!r}, which is not imported from "
                    "there; give it: `PDROptimizer.join(..., sampler=...)`"
                )
            settings["sampler"] = sampler
        return Stored(SearchSettings(**settings), ends)
    except ConfigError as error:
        raise StoreError(f"the search in {options.where} cannot be joined here: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{options.where} holds no search of this version ({error}); {REMEDY}") from error


def _check_version(version: Any, options: RunOptions) -> None:
    if version != VERSION:
        raise StoreError(
            f"{options.where} holds a search of another version of this library: its format is {version!r}, that of "
            f"this version is {VERSION}; {REMEDY}"
        )


def no_search(options: RunOptions) -> StoreError:
    """The error for a location without a search."""
    return StoreError(
        f"there is no search {options.study!r} in {options.where}; start it with `pdr optimize` or `compile`"
    )


def _by_argument(description: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a description by their names for the user; later settings have their defaults."""
    parts = {_ARGUMENTS.get(name, name): description[name] for name in description if name not in ("settings", "ends")}
    for name, value in _completed(SearchSettings().model_dump(mode="json"), description["settings"]).items():
        if isinstance(value, Mapping) and name != "space":
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
