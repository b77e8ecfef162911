"""Data sets by name: built in, registered with `@dataset`, or of installed packages; and `load`, which takes a name,
`hub:owner/name`, `rg:task` or a file.

Every example has `question` (the only input), `answer` (the gold answer, a string), `id` (unique in its set and stable)
and `source`, and keeps the other columns of its row; a column whose name collides becomes `original_<name>`.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dspy

from pdr_dspy.arguments import explained
from pdr_dspy.datasets.columns import examples_for
from pdr_dspy.datasets.examples import examples_of
from pdr_dspy.datasets.files import FILE_KINDS, read_file
from pdr_dspy.datasets.hub import HUB, HUB_SETS, hub_info, load_hub
from pdr_dspy.datasets.procedural import gym, make_procedural, task_of
from pdr_dspy.datasets.record import Dataset, DatasetInfo, Row
from pdr_dspy.errors import ConfigError, DataError, PDRError
from pdr_dspy.prompts.roles import check_task, needed_inputs
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.runtime.registry import Registry, origin_of
from pdr_dspy.settings import whole_number


def _check(name: str, found: Any) -> Dataset:
    if not isinstance(found, Dataset):
        raise ConfigError(f"it is of the type {type(found).__name__}; make one with `@pdr_dspy.dataset({name!r})`")
    if found.info.name != name:
        raise ConfigError(f"it is the data set {found.info.name!r}; use that name")
    return found


DATASETS: Registry[Dataset] = Registry(
    "data set",
    group="pdr_dspy.datasets",
    built_in={name: Dataset(known, functools.partial(load_hub, known)) for name, known in HUB_SETS.items()},
    check=_check,
    hint='Register it with `@pdr_dspy.dataset("name")`, or install the package that has it',
)
"""All named data sets."""

Read = Callable[[str], Iterable[Row]]


@explained
def dataset(
    name: str,
    *,
    verifier: str,
    splits: Sequence[str] = ("test",),
    split: str | None = None,
    size: int | None = None,
    licence: str = "",
    citation: str = "",
) -> Callable[[Read], Dataset]:
    """Register a function as a data set, for `load(name)` and `--data name`.

    >>> @pdr_dspy.dataset("sums", verifier="number", splits=("train", "test"))
    ... def sums(split):
    ...     '''Sums of two small numbers.'''
    ...     start = {"train": 0, "test": 100}[split]
    ...     for number in range(start, start + 100):
    ...         yield {"question": f"What is {number} + 1?", "answer": str(number + 1), "id": str(number)}

    Args:
        name: its name for `load`; letters, digits, `_`, `-` and `.`.
        verifier: the name of the verifier that grades it.
        splits: the names of its splits.
        split: the default split; "test" if there is one, else the first.
        size: number of rows of the default split, if known.
        licence: its licence.
        citation: its source.

    Returns:
        A decorator that turns a function from a split's name to rows, in a fixed order, into a `Dataset`. A row is a
        mapping with a question, an answer and optionally an id, or a `dspy.Example` with its inputs marked. The first
        sentence of the function's docstring describes the set in lists.

    Raises ConfigError for a name that is taken, and for a `split` that is not one of `splits`.
    """
    if isinstance(splits, str) or not splits:
        raise ConfigError(f'`dataset(splits={splits!r})` must be a tuple of names, such as ("train", "test")')
    chosen = split if split is not None else "test" if "test" in splits else splits[0]
    if chosen not in splits:
        raise ConfigError(f"`dataset(split={split!r})` must be one of `splits={tuple(splits)}`")
    if Path(str(name)).suffix.lower() in FILE_KINDS:
        raise ConfigError(f"`dataset({name!r})` would be taken for a file; choose a name that does not end like one")

    def register(read: Read) -> Dataset:
        about = " ".join((read.__doc__ or "").split()).partition(". ")[0].rstrip(".")
        part = Dataset(
            DatasetInfo(
                name=name,
                about=about,
                hub="",
                config=None,
                split=chosen,
                splits=tuple(splits),
                size=size,
                fields={"question": "question", "answer": "answer"},
                verifier=verifier,
                licence=licence,
                citation=citation,
            ),
            read,
        )
        return DATASETS.add(name, part, origin=origin_of(read))

    return register


@explained
def load(
    name: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int | None = None,
    size: int | None = None,
    fields: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    signature: str | type[dspy.Signature] | None = None,
) -> list[dspy.Example]:
    """Return the examples of a set.

    >>> load("tickets.csv", signature="message -> category")           # has the columns message and category
    >>> load("tickets.csv", signature=Triage, fields={"message": "text"})

    Args:
        name: a registered name (see `names()`), `hub:owner/name` or `hub:owner/name/config` for any other set of the
            Hugging Face hub, `rg:<task>` for a procedural set of reasoning-gym, or the path of a local .jsonl, .json,
            .csv or .parquet file.
        split: the split to read; None for the set's default.
        limit: largest number of rows, taken after shuffling if `seed` is given.
        seed: seed of the shuffle. For a procedural set it chooses the questions (default 0); sets of different seeds
            come from disjoint streams.
        size: number of distinct questions of a procedural set (default 100).
        fields: `question`, `answer` and `id` to columns, for a file or a set of the hub with uncommon column names.
        options: settings of a procedural set's task.
        signature: the task that the examples are for. Its inputs and outputs are the columns of their names, or those
            in `fields`, and values have its types; `program.task` is that of a program. None is a question with an
            answer.

    Raises ConfigError for an unknown name or an argument that does not apply, MissingExtra if `pdr-dspy[data]` is
    needed, and DataError for a set that cannot be read, is empty, lacks a field or repeats an id.
    """
    text = str(name)
    task = None if signature is None else check_task(signature)
    for argument, value in (("limit", limit), ("size", size)):
        if value is not None:
            whole_number(f"load({text!r}, ", argument, value)
    if seed is not None:
        whole_number(f"load({text!r}, ", "seed", seed, least=None)
    if text.startswith("rg:"):
        _refuse(text, "a procedural set", split=split, fields=None if task else fields)
        examples = make_procedural(text, size=size or limit or 100, seed=seed or 0, options=dict(options or {}))
        return _for_task(task, examples, text, fields)[:limit]
    _refuse(text, "a set of fixed rows (use `limit=`)", size=size, options=options)
    if text.startswith(HUB):
        examples = load_hub(hub_info(text), split, fields=fields, signature=task)
    elif Path(text).suffix.lower() in FILE_KINDS:
        _refuse(text, "a local file", split=split)
        path = local_path(text)
        rows, where = read_file(path), (str(path), path.stem, fields or {})
        examples = examples_of(rows, *where) if task is None else examples_for(task, rows, *where)
    elif text in DATASETS:
        _refuse(text, "a registered set", fields=None if task else fields)
        examples = _read(DATASETS.find(text), split, limit if seed is None else None)
        examples = _for_task(task, examples, text, fields)
    else:
        raise ConfigError(_unknown(text))
    if seed is not None:
        random.Random(seed).shuffle(examples)
    return examples[:limit]


def info(name: str) -> DatasetInfo:
    """Return the description of a registered, hub or procedural set. Raises ConfigError for any other name."""
    if name in DATASETS:
        return DATASETS.find(name).info
    if name.startswith(HUB):
        return hub_info(name)
    if name.startswith("rg:"):
        task = task_of(name)
        return DatasetInfo(
            name=name,
            about=f"Procedural problems of reasoning-gym's task {task}, any number, made from a seed",
            hub="",
            config=None,
            split="",
            splits=(),
            size=None,
            fields={"question": "question", "answer": "answer"},
            verifier="ProceduralVerifier",
            licence="Apache-2.0 (reasoning-gym)",
            citation="Stojanovski et al., Reasoning Gym, arXiv:2505.24760",
        )
    raise ConfigError(_unknown(name))


def names(*, procedural: bool = False) -> list[str]:
    """Return the registered names, or with `procedural=True` reasoning-gym's tasks (`rg:...`)."""
    if not procedural:
        return list(DATASETS.names())
    return [f"rg:{task}" for task in sorted(gym()) if task != "composite"]


def _read(part: Dataset, split: str | None, limit: int | None) -> list[dspy.Example]:
    """The examples of a split of a registered set."""
    known, chosen = part.info, split or part.info.split
    if chosen not in known.splits:
        raise ConfigError(f"`load({known.name!r}, split={split!r})`: its splits are {', '.join(known.splits)}")
    try:
        rows = list(itertools.islice(part.read(chosen), limit))
    except PDRError:
        raise
    except Exception as error:  # a user's function may raise anything
        raise DataError(f"`load({known.name!r}, split={chosen!r})` failed: {type(error).__name__}: {error}") from error
    if rows and all(isinstance(row, dspy.Example) for row in rows):
        return [row for row in rows if isinstance(row, dspy.Example)]
    numbered = ((f"row {number}", row) for number, row in enumerate(rows, start=1))
    name = known.name if len(known.splits) == 1 else f"{known.name}/{chosen}"
    return examples_of(numbered, f"{known.name}:{chosen}", name, {})


def _for_task(
    task: type[dspy.Signature] | None,
    examples: list[dspy.Example],
    name: str,
    fields: Mapping[str, str] | None,
) -> list[dspy.Example]:
    """Examples of a set as those of a task: unchanged if they have its inputs."""
    if task is None or (not fields and all(one in examples[0] for one in needed_inputs(task))):
        return examples
    rows = (
        (f"row {number}", {key: value for key, value in example.items() if key not in ("id", "source")})
        for number, example in enumerate(examples, start=1)
    )
    made = examples_for(task, rows, name, name, fields or {})
    own = ({key: before[key] for key in ("id", "source") if key in before} for before in examples)
    return [example.copy(**kept) for example, kept in zip(made, own, strict=True)]


def _refuse(name: str, kind: str, **arguments: object) -> None:
    for argument, value in arguments.items():
        if value is not None:
            raise ConfigError(f"`load({name!r}, {argument}={value!r})`: `{argument}` does not apply to {kind}")


def _unknown(name: str) -> str:
    known = names()
    near = difflib.get_close_matches(name, [*known, *(f"{one}.jsonl" for one in known)], n=3, cutoff=0.5)
    meant = f"; did you mean {' or '.join(repr(one) for one in near)}?" if near else "."
    return (
        f"`load({name!r})` is not a known data set{meant} Known: {', '.join(known)}, rg:<task of reasoning-gym>, "
        f"hub:<owner/name of the hub>, or the path of a file ending in {', '.join(FILE_KINDS)}"
    )
