"""Problems with gold answers, from the Hugging Face hub, from reasoning-gym or from a local file, in one shape.

Every example has `question` (the only input), `answer` (the gold answer, a string), `id` (unique in its set and stable)
and `source`, and keeps the other columns of its row; one whose name collides with these becomes `original_<name>`.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import itertools
import json
import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import dspy

from pdr_dspy.errors import ConfigError, DataError, MissingExtra
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.settings import whole_number

_OURS = ("question", "answer", "id", "source")
_QUESTION_COLUMNS = ("question", "problem", "prompt", "input", "query", "instruction")
_ANSWER_COLUMNS = ("answer", "final_answer", "expected_answer", "gold", "target", "label", "solution", "output")
_ID_COLUMNS = ("id", "unique_id", "problem_id", "idx", "uid")
_FILE_KINDS = (".jsonl", ".json", ".csv", ".parquet")
_HUB_SECONDS = 3.0
_BLOCK = 1_000_000
_FIELDS_OF_ANY_LENGTH = threading.Lock()


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a set by name."""

    name: str
    about: str
    hub: str
    """The repository on the hub."""
    config: str | None
    split: str
    """The split that is loaded unless another is asked for."""
    splits: tuple[str, ...]
    size: int | None
    """Rows of the default split."""
    fields: Mapping[str, str] = field(hash=False)
    """Our field names to the columns of the set."""
    verifier: str
    """The kind of verifier that grades it, as in `load_verifier({"kind": ...})`."""
    licence: str
    citation: str

    def describe(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {**asdict(self), "splits": list(self.splits), "fields": dict(self.fields)}


_MATH_PAPER = "Hendrycks et al., Measuring Mathematical Problem Solving With the MATH Dataset, arXiv:2103.03874"
_HUB_SETS = {
    known.name: known
    for known in (
        DatasetInfo(
            name="aime24",
            about="The 30 problems of the American Invitational Mathematics Examination 2024 (I and II)",
            hub="HuggingFaceH4/aime_2024",
            config=None,
            split="train",
            splits=("train",),
            size=30,
            fields={"question": "problem", "answer": "answer", "id": "id"},
            verifier="NumberVerifier",
            licence="none stated on the hub; the problems are the Mathematical Association of America's",
            citation="Mathematical Association of America, AIME 2024",
        ),
        DatasetInfo(
            name="aime25",
            about="The 30 problems of the American Invitational Mathematics Examination 2025 (I and II)",
            hub="math-ai/aime25",
            config=None,
            split="test",
            splits=("test",),
            size=30,
            fields={"question": "problem", "answer": "answer", "id": "id"},
            verifier="NumberVerifier",
            licence="Apache-2.0 on the hub; the problems are the Mathematical Association of America's",
            citation="Mathematical Association of America, AIME 2025; Zhang and Math-AI, math-ai/aime25",
        ),
        DatasetInfo(
            name="math500",
            about="500 problems of the MATH test set, from prealgebra to precalculus, answers in LaTeX",
            hub="HuggingFaceH4/MATH-500",
            config=None,
            split="test",
            splits=("test",),
            size=500,
            fields={"question": "problem", "answer": "answer", "id": "unique_id"},
            verifier="MathVerifier",
            licence="MIT (MATH)",
            citation=f"{_MATH_PAPER}; the selection: Lightman et al., Let's Verify Step by Step, arXiv:2305.20050",
        ),
        DatasetInfo(
            name="gsm8k",
            about="Grade-school word problems with whole-number answers",
            hub="openai/gsm8k",
            config="main",
            split="test",
            splits=("train", "test"),
            size=1319,
            fields={"question": "question", "answer": "answer"},
            verifier="NumberVerifier",
            licence="MIT",
            citation="Cobbe et al., Training Verifiers to Solve Math Word Problems, arXiv:2110.14168",
        ),
    )
}


def load(
    name: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int | None = None,
    size: int | None = None,
    fields: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[dspy.Example]:
    """Return the examples of a set.

    `name` is a hub set (see `names()`), `rg:<task>` for a procedural set of reasoning-gym, or the path of a local
    .jsonl, .json, .csv or .parquet file. `limit` keeps at most so many rows, after shuffling with `seed` if that is
    given. For a procedural set, `size` is how many distinct questions to make (100), `seed` chooses them (0; sets of
    different seeds come from disjoint streams) and `options` are the task's own settings. `fields` maps `question`,
    `answer` and `id` to columns, for a local file whose names are not the common ones.

    Raises ConfigError for an unknown name or an argument that does not apply, MissingExtra where `pdr-dspy[data]` is
    needed, and DataError for a set that cannot be read, is empty, lacks a field or repeats an id.
    """
    text = str(name)
    for argument, value in (("limit", limit), ("size", size)):
        if value is not None:
            whole_number(f"load({text!r}, ", argument, value)
    if seed is not None:
        whole_number(f"load({text!r}, ", "seed", seed, least=None)
    if text.startswith("rg:"):
        _refuse(text, "a procedural set", split=split, fields=fields)
        examples = _procedural(text, size=size or limit or 100, seed=seed or 0, options=dict(options or {}))
        return examples[:limit]
    _refuse(text, "a set of fixed rows (use `limit=`)", size=size, options=options)
    if text in _HUB_SETS:
        _refuse(text, "a hub set", fields=fields)
        examples = _from_hub(_HUB_SETS[text], split)
    elif Path(text).suffix.lower() in _FILE_KINDS:
        _refuse(text, "a local file", split=split)
        path = local_path(text)
        examples = _examples(_read_file(path), str(path), path.stem, dict(fields or {}))
    else:
        raise ConfigError(_unknown(text))
    if seed is not None:
        random.Random(seed).shuffle(examples)
    return examples[:limit]


def info(name: str) -> DatasetInfo:
    """Return what is known of a set of `names()`; a procedural set says which task it is. Raises ConfigError."""
    if name in _HUB_SETS:
        return _HUB_SETS[name]
    if name.startswith("rg:"):
        task = _task(name)
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
    """Return the names of the hub sets, or with `procedural=True` those of reasoning-gym's tasks (`rg:...`)."""
    if not procedural:
        return list(_HUB_SETS)
    return [f"rg:{task}" for task in sorted(_gym()) if task != "composite"]


def split(examples: Sequence[dspy.Example], *parts: float, seed: int = 0) -> list[list[dspy.Example]]:
    """Return disjoint parts of the examples, shuffled with `seed`.

    `parts` are all sizes (whole numbers) or all fractions (floats that add up to at most 1). Raises ConfigError where
    they do not fit or where a part would be empty.
    """
    shown = f"`split(..., {', '.join(str(part) for part in parts)})`"
    if not parts:
        raise ConfigError("`split(examples)` needs at least one size or fraction")
    if all(isinstance(part, int) for part in parts):
        bounds = [sum(int(part) for part in parts[:count]) for count in range(len(parts) + 1)]
    elif all(isinstance(part, float) for part in parts):
        if sum(parts) > 1 + 1e-9:
            raise ConfigError(f"{shown} must add up to at most 1, got {sum(parts):g}")
        bounds = [round(sum(parts[:count]) * len(examples)) for count in range(len(parts) + 1)]
    else:
        raise ConfigError(f"{shown} mixes sizes and fractions; give whole numbers only or floats only")
    if bounds[-1] > len(examples):
        raise ConfigError(f"{shown} asks for {bounds[-1]} examples, but there are {len(examples)}")
    shuffled = list(examples)
    random.Random(seed).shuffle(shuffled)
    chosen = [shuffled[low:high] for low, high in itertools.pairwise(bounds)]
    if any(not part for part in chosen):
        raise ConfigError(f"{shown} leaves a part of {len(examples)} examples empty")
    return chosen


def fingerprint(examples: Iterable[dspy.Example]) -> str:
    """Return the SHA-256, in hex, of the examples' fields. The order of the examples does not matter."""
    rows = sorted(json.dumps(dict(example.items()), sort_keys=True, default=str) for example in examples)
    return hashlib.sha256("\n".join(rows).encode("utf-8", "backslashreplace")).hexdigest()


def _refuse(name: str, kind: str, **arguments: object) -> None:
    for argument, value in arguments.items():
        if value is not None:
            raise ConfigError(f"`load({name!r}, {argument}={value!r})`: `{argument}` does not apply to {kind}")


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, [*_HUB_SETS, *(f"{known}.jsonl" for known in _HUB_SETS)], n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(repr(known) for known in near)}?" if near else ""
    return (
        f"`load({name!r})` is not a known data set{hint} Known: {', '.join(_HUB_SETS)}, rg:<task of reasoning-gym>, "
        f"or the path of a file ending in {', '.join(_FILE_KINDS)}"
    ).replace("set Known", "set. Known")


# ------------------------------------------------------------------------------------------------------------- rows


def _examples(rows: Iterable[tuple[str, Any]], source: str, name: str, fields: dict[str, str]) -> list[dspy.Example]:
    """Examples from (where the row stands, the row)."""
    unknown = set(fields) - set(_OURS[:3])
    if unknown:
        raise ConfigError(f"`fields={fields!r}` may map question, answer and id, not {', '.join(sorted(unknown))}")
    found: list[dspy.Example] = []
    places: dict[str, str] = {}
    named = [(place, row, _own_id(row, fields)) for place, row in rows]
    taken = {str(row[column]) for _, row, column in named if column is not None}
    for number, (place, row, given) in enumerate(named, start=1):
        if not isinstance(row, Mapping):
            raise DataError(f"{source}, {place}: expected an object with fields, got {type(row).__name__}")
        row = {str(column): value for column, value in row.items()}
        question = _column(row, fields.get("question"), _QUESTION_COLUMNS, "question", source, place)
        answer = _column(row, fields.get("answer"), _ANSWER_COLUMNS, "answer", source, place)
        if given is None and fields.get("id"):
            raise DataError(f"{source}, {place}: no value in the column {fields['id']!r}; it has {', '.join(row)}")
        id_ = f"{name}/{_free(str(number), taken) if given is None else row[given]}"
        if id_ in places:
            raise DataError(f"{source}, {place}: the id {id_!r} was already used in {places[id_]}; ids must be unique")
        places[id_] = place
        ours = {"question": _text(row[question]), "answer": _text(row[answer]), "id": id_, "source": source}
        kept = {column: value for column, value in row.items() if column not in (question, answer, given)}
        kept = {f"original_{column}" if column in _OURS else column: value for column, value in kept.items()}
        found.append(dspy.Example(**ours, **kept).with_inputs("question"))
    if not found:
        raise DataError(f"{source} has no rows")
    return found


def _own_id(row: Any, fields: Mapping[str, str]) -> str | None:
    """The column with a row's own id; None for a row without one."""
    if not isinstance(row, Mapping):
        return None
    names = {str(column): column for column in row}
    asked = (fields["id"],) if fields.get("id") else _ID_COLUMNS
    return next((column for column in asked if column in names and row[names[column]] not in (None, "")), None)


def _free(number: str, taken: set[str]) -> str:
    """The name of a row by its number, beside rows with ids of their own, of which one may be that number."""
    while number in taken:
        number = f"row {number}"
    return number


def _column(
    row: Mapping[str, Any], asked: str | None, common: Sequence[str], ours: str, source: str, place: str
) -> str:
    lower = {column.lower(): column for column in reversed(list(row))}
    column = asked or next((lower[known] for known in common if known in lower), None)
    if column is None or column not in row:
        remedy = "" if asked else f'; name it with `fields={{"{ours}": ...}}`'
        wanted = f"the column {asked!r}" if asked else f"a column for `{ours}`"
        raise DataError(f"{source}, {place}: {wanted} is missing, the columns are {', '.join(row) or 'none'}{remedy}")
    if row[column] is None or (isinstance(row[column], str) and not row[column].strip()):
        raise DataError(f"{source}, {place}: the column {column!r} (`{ours}`) is empty")
    return column


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))  # a table reader made 204.0 of 204
    return value.strip() if isinstance(value, str) else json.dumps(value) if isinstance(value, list) else str(value)


def _read_file(path: Path) -> Iterable[tuple[str, Any]]:
    if not path.is_file():
        raise DataError(f"`load({str(path)!r})`: there is no such file")
    readers: dict[str, Callable[[Path], Iterable[tuple[str, Any]]]] = {
        ".jsonl": _read_jsonl,
        ".json": _read_json,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    try:
        yield from readers[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}") from error
    except (csv.Error, OSError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def whole(digits: str) -> int | str:
    """A whole number of JSON; its digits as they are where Python would not turn so many of them into a number."""
    try:
        return int(digits)
    except ValueError:
        return digits


def _read_jsonl(path: Path) -> Iterable[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield f"line {number}", json.loads(line, parse_int=whole)
                except json.JSONDecodeError as error:
                    raise DataError(f"{path}, line {number}: not valid JSON ({error.msg})") from error


def _read_json(path: Path) -> Iterable[tuple[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"), parse_int=whole)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of objects, got {type(rows).__name__}; one object a line is .jsonl")
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", row


def _read_csv(path: Path) -> Iterable[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file, _FIELDS_OF_ANY_LENGTH:
        before = csv.field_size_limit(2**31 - 1)  # one setting of the whole process, for no reader alone
        try:
            reader = csv.DictReader(file, restkey="more columns than the header")
            rows = [(f"line {reader.line_num}", row) for row in reader]
        finally:
            csv.field_size_limit(before)
    yield from rows


def _read_parquet(path: Path) -> Iterable[tuple[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtra("pyarrow", "data", f"`load({str(path)!r})`") from error
    try:
        rows = pq.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", row


# -------------------------------------------------------------------------------------------------------------- hub


def _from_hub(known: DatasetInfo, split: str | None) -> list[dspy.Example]:
    if split is not None and split not in known.splits:
        raise ConfigError(f"`load({known.name!r}, split={split!r})`: its splits are {', '.join(known.splits)}")
    try:
        import datasets as hub
    except ImportError as error:
        raise MissingExtra("datasets", "data", f"`load({known.name!r})`") from error
    chosen = split or known.split
    reachable = _hub_answers()
    try:
        with nullcontext() if reachable else _only_what_is_cached(hub):
            rows = list(hub.load_dataset(known.hub, known.config, split=chosen))
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        why = first if reachable else "the hub does not answer and the set is not in the cache"
        raise DataError(
            f"`load({known.name!r})` could not get {known.hub} from the Hugging Face hub ({why}). Without a network, "
            f'give a local file instead: `load("{known.name}.jsonl")`, each line {{"question": ..., "answer": ...}}'
        ) from error
    prepared = ((f"row {number}", _prepare(known, row)) for number, row in enumerate(rows, start=1))
    name = known.name if len(known.splits) == 1 else f"{known.name}/{chosen}"
    return _examples(prepared, f"{known.hub}:{chosen}", name, dict(known.fields))


def _prepare(known: DatasetInfo, row: Any) -> dict[str, Any]:
    row = dict(row)
    if known.name == "gsm8k":  # the answer column is a worked solution that ends in `#### 1,234`
        solution, mark, answer = str(row.get("answer")).rpartition("####")
        if mark:
            row = {**row, "answer": answer.strip().replace(",", ""), "solution": solution.strip()}
    return row


def _hub_answers() -> bool:
    """Whether the hub says anything at all within a few seconds; its client would retry for half a minute."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=_HUB_SECONDS)
    except Exception:
        return False
    return True


def _only_what_is_cached(hub: Any) -> AbstractContextManager[None]:
    from huggingface_hub import constants

    @contextmanager
    def offline() -> Any:
        before = (hub.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE)
        hub.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
        try:
            yield
        finally:
            hub.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before

    return offline()


# ------------------------------------------------------------------------------------------------------- procedural


def _gym() -> Mapping[str, Any]:
    try:
        import reasoning_gym  # noqa: F401
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise MissingExtra("reasoning-gym", "data", "A procedural set (`rg:...`)") from error
    return DATASETS


def _task(name: str) -> str:
    task, known = name.removeprefix("rg:"), _gym()
    if task not in known or task == "composite":
        near = difflib.get_close_matches(task, list(known), n=3, cutoff=0.4)
        hint = (
            f"near it: {', '.join(f'rg:{other}' for other in near)}" if near else f"e.g. {', '.join(sorted(known)[:5])}"
        )
        raise ConfigError(f"`load({name!r})`: reasoning-gym has no task {task!r}; {hint}")
    return task


def _procedural(name: str, *, size: int, seed: int, options: dict[str, Any]) -> list[dspy.Example]:
    task = _task(name)
    if size > _BLOCK // 20 or seed < 0:
        raise ConfigError(
            f"`load({name!r}, size={size}, seed={seed})`: size is at most {_BLOCK // 20}, seed at least 0"
        )
    import reasoning_gym

    tries = 20 * size + 100
    try:
        # reasoning-gym makes item i from seed + i, so neighbouring seeds would share almost all of their questions.
        made = reasoning_gym.create_dataset(task, size=tries, seed=seed * _BLOCK, **options)
    except (TypeError, AssertionError, ValueError) as error:
        raise ConfigError(f"`load({name!r}, options={options!r})`: reasoning-gym refuses: {error}") from error
    tag = (
        f"/{hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode()).hexdigest()[:8]}"
        if options
        else ""
    )
    examples: list[dspy.Example] = []
    seen: set[str] = set()
    for index in range(tries):
        entry = made[index]
        if entry["question"] in seen:
            continue
        seen.add(entry["question"])
        if entry["answer"] is None:
            raise DataError(f"`load({name!r})`: this task gives no gold answer, so it cannot be graded against one")
        ours = {"question": entry["question"], "answer": str(entry["answer"]), "id": f"{name}/{seed}{tag}/{index}"}
        gym = {"rg_dataset": task, "rg_options": options, "rg_entry": json.loads(json.dumps(entry, default=str))}
        examples.append(dspy.Example(**ours, source=f"reasoning-gym:{task}", **gym).with_inputs("question"))
        if len(examples) == size:
            return examples
    raise DataError(
        f"`load({name!r}, size={size})`: the task made only {len(examples)} different questions; "
        "ask for fewer or give it more room with `options=`"
    )
