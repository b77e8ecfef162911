"""What a search says of itself on its board, so that all who work on it mean the same search.

The document `config` has the description that the first process wrote and `ends/` how far later ones extended it. A
process whose description differs is refused with the first difference.
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
"""What a user calls the parts of a description."""


class Ends(Settings):
    """Where a search ends, and how many questions it has, for those who join it."""

    trials: int
    max_tokens: int | None
    train: int
    """Training questions."""
    held_out: int
    """Questions of the confirmation."""


class Stored(NamedTuple):
    """A search as its board describes it."""

    settings: SearchSettings
    ends: Ends


def ends_here(problem: Problem, options: RunOptions) -> Ends:
    """Where this process ends the search."""
    questions = {"train": len(problem.train), "held_out": len(problem.held_out)}
    return Ends(trials=options.trials, max_tokens=options.max_tokens, **questions)


def agree(board: Board, problem: Problem, options: RunOptions, *, but: Collection[str] = ()) -> None:
    """Write the description, or check that the one on the board is the same.

    Args:
        board: of the search.
        problem: whose description is meant.
        options: of this process.
        but: parts of the description that may differ.

    Raises StoreError when the board describes another search, or has lost its description.
    """
    there = board.read("")  # one look: between two, another worker may begin the same search
    if there and CONFIG not in there:  # or measurements of another search would be taken for ours
        raise StoreError(
            f"the description of the search in {options.where} is damaged, so it cannot be told whether what is there "
            "belongs to this one; remove the folder `board` (its calls are in `rollouts` and not paid again), or "
            f"{REMEDY}"
        )
    ends = ends_here(problem, options).model_dump()
    check(board.put(CONFIG, json.dumps({**problem.description, "ends": ends})), problem, options, but=but)


def extend_ends(board: Board, problem: Problem, options: RunOptions) -> None:
    """Write where the search ends from now on, where that has changed."""
    ends = ends_here(problem, options)
    if ends_of(board) != ends:
        board.put(f"ends/{len(board.read('ends/')):04d}", json.dumps(ends.model_dump()))


def check(text: str, problem: Problem, options: RunOptions, *, but: Collection[str] = ()) -> None:
    """Check that the description of a search is that of `problem`; see `agree`.

    Raises StoreError, naming what differs and both values, when it is not.
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
            f"{options.where} holds another search: {differs}; {REMEDY}, or the same arguments to continue it"
        )


def ends_of(board: Board) -> Ends | None:
    """Where the search ends, as the last `compile` wrote it; None where there is no search of this version."""
    later, text = list(board.read("ends/").values()), board.get(CONFIG)
    try:
        return Ends(**(json.loads(later[-1]) if later else json.loads(text or "")["ends"]))
    except (ValueError, KeyError, TypeError):
        return None


def read_ends(board: Board, options: RunOptions) -> Ends:
    """As `ends_of`. Raises StoreError where there is no search of this version."""
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
        options: where it is, for messages.
        sampler: what proposes candidates, where the search has a function of somebody's own for it.

    Raises StoreError when there is no search, or one that this process cannot work on.
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
                    f"the search in {options.where} has a sampler of its own, {stored!r}, which is not imported from "
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
    """The error of a place without a search."""
    return StoreError(
        f"there is no search {options.study!r} in {options.where}; start it with `pdr optimize` or `compile`"
    )


def _by_argument(description: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a description by what a user calls them; settings that came later have their defaults."""
    parts = {_ARGUMENTS.get(name, name): description[name] for name in description if name not in ("settings", "ends")}
    for name, value in _completed(SearchSettings().model_dump(mode="json"), description["settings"]).items():
        if isinstance(value, Mapping) and name != "space":
            parts |= {keyword_of((name, inner)): each for inner, each in value.items()}
        else:
            parts[keyword_of((name,))] = value
    return parts


def _completed(default: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given settings with the default of each that is not there."""
    return {
        **default,
        **{
            name: _completed(default[name], value)
            if isinstance(value, Mapping) and isinstance(default.get(name), Mapping)
            else value
            for name, value in given.items()
        },
    }
