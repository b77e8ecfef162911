"""What `pdr eval` says of wrong answers: the first one, and whether the model was told which answers there are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import dspy

from pdr_dspy.cli.data_option import interface_of
from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.records import Row

MOST = 12
"""Different gold answers that still are labels, rather than answers of their own."""
LONGEST = 40
"""Characters of a label, and of an answer that is shown."""


def wrong_in_words(program: dspy.Module, rows: Sequence[Row]) -> list[str]:
    """The first answer that scores 0, and a remedy if all of those are no label of the data; empty if none scores 0."""
    wrong = [row for row in rows if row.score == 0 and row.error is None and row.answer is not None]
    if not wrong:
        return []
    first = wrong[0]
    said = [f"scored 0, for example question {first.id}: {_short(first.answer)}, where gold is {_short(first.gold)}"]
    labels = sorted({row.gold for row in rows if row.gold is not None})
    outputs: dict[str, Any] = {}
    with suppress(ConfigError):  # a module whose inputs are unknown
        outputs = {name: field.annotation for name, field in interface_of(program).output_fields.items()}
    few = len(labels) < len(rows) and len(labels) <= MOST and all(len(label) <= LONGEST for label in labels)
    if few and list(outputs.values()) == [str] and not {row.answer for row in wrong} & set(labels):
        (name,) = outputs
        said.append(
            "the model is not told which answers there are: write all of them as the type of the output, such as "
            f"`{name}: Literal[{', '.join(map(repr, labels))}]`"
        )
    return said


def _short(text: str | None) -> str:
    line = " ".join((text or "").split())
    return repr(line if len(line) <= LONGEST else f"{line[:LONGEST]}…")
