"""Sets of the Hugging Face hub: by name for known sets, by repository for any other."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import dspy

from pdr_dspy.datasets.columns import examples_for
from pdr_dspy.datasets.examples import examples_of
from pdr_dspy.datasets.record import DatasetInfo
from pdr_dspy.errors import ConfigError, DataError, MissingExtra

HUB = "hub:"
"""Prefix of the name of a set that is addressed by its repository."""
_HUB_SECONDS = 3.0

_MATH_PAPER = "Hendrycks et al., Measuring Mathematical Problem Solving With the MATH Dataset, arXiv:2103.03874"
HUB_SETS = {
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


def hub_info(name: str) -> DatasetInfo:
    """The DatasetInfo of a name of the form `hub:owner/name` or `hub:owner/name/config`.

    Raises ConfigError for any other form.
    """
    parts = name.removeprefix(HUB).split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise ConfigError(f"`load({name!r})` must be `hub:owner/name` or `hub:owner/name/config`")
    return DatasetInfo(
        name=name,
        about=f"The set {'/'.join(parts[:2])} of the Hugging Face hub",
        hub="/".join(parts[:2]),
        config=parts[2] if len(parts) == 3 else None,
        split="",
        splits=(),
        size=None,
        fields={},
        verifier="",
        licence="see the hub",
        citation=f"https://huggingface.co/datasets/{'/'.join(parts[:2])}",
    )


def load_hub(
    known: DatasetInfo,
    split: str | None,
    *,
    fields: Mapping[str, str] | None = None,
    signature: type[dspy.Signature] | None = None,
) -> list[dspy.Example]:
    """The examples of a set of the hub.

    Args:
        known: the set. If it lists no splits, any may be requested; the default is then "test", or the only split.
        split: the split to read; None for the default.
        fields: further field names to columns.
        signature: the task that the examples are for; None is a question with an answer.
    """
    if split is not None and known.splits and split not in known.splits:
        raise ConfigError(f"`load({known.name!r}, split={split!r})`: its splits are {', '.join(known.splits)}")
    try:
        import datasets as hub
    except ImportError as error:
        raise MissingExtra("datasets", "data", f"`load({known.name!r})`") from error
    chosen = split or known.split
    reachable = _hub_answers()
    try:
        with nullcontext() if reachable else _only_what_is_cached(hub):
            found = hub.load_dataset(known.hub, known.config, split=chosen or None)
            if not chosen:
                chosen = _only(known, [str(one) for one in found])
                found = found[chosen]
            rows = list(found)
    except ConfigError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        why = first if reachable else "the hub does not answer and the set is not in the cache"
        file = known.hub.rpartition("/")[2] if known.name.startswith(HUB) else known.name
        raise DataError(
            f"`load({known.name!r})` could not get {known.hub} from the Hugging Face hub ({why}). Without a network, "
            f'give a local file instead: `load("{file}.jsonl")`, each line {{"question": ..., "answer": ...}}'
        ) from error
    prepared = ((f"row {number}", _prepare(known, row)) for number, row in enumerate(rows, start=1))
    short = known.name.removeprefix(HUB)
    name = short if len(known.splits) == 1 else f"{short}/{chosen}"
    source = f"{known.hub}:{chosen}"
    if signature is not None:
        return examples_for(signature, prepared, source, name, fields or {})
    return examples_of(prepared, source, name, {**known.fields, **(fields or {})})


def _only(known: DatasetInfo, splits: list[str]) -> str:
    """The default split of a set without a listed one."""
    if "test" in splits or len(splits) == 1:
        return "test" if "test" in splits else splits[0]
    raise ConfigError(f"`load({known.name!r})` has the splits {', '.join(splits)}; name one: `split=...`")


def _prepare(known: DatasetInfo, row: Any) -> dict[str, Any]:
    row = dict(row)
    if known.hub == "openai/gsm8k":  # the answer column is a worked solution that ends in `#### 1,234`
        solution, mark, answer = str(row.get("answer")).rpartition("####")
        if mark:
            row = {**row, "answer": answer.strip().replace(",", ""), "solution": solution.strip()}
    return row


def _hub_answers() -> bool:
    """Whether the hub responds within a few seconds; its client would retry for half a minute."""
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
