"""Questions as the trainer's data set: one row for each question and mode, in columns that Arrow can hold.

The columns are `prompt` (the question's inputs, which TRL requires and shows in its logs; the calls read the prompts
that the program renders), `mode` and `example` (the `dspy.Example` as JSON).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import dspy

from pdr_dspy.calls.dspy_bridge import inputs_marked
from pdr_dspy.errors import ConfigError, DataError
from pdr_dspy.training.types import MODES, Mode

COLUMNS = ("prompt", "mode", "example")


def mode_rows(examples: Sequence[dspy.Example], modes: Sequence[Mode] = MODES) -> list[dict[str, str]]:
    """One row for each example and mode, for `datasets.Dataset.from_list`.

    Args:
        examples: examples with the program's inputs and the gold fields that the verifier reads.
        modes: the kinds of episodes; ("trace",) trains on long traces alone.

    Raises:
        ConfigError: an unknown mode, or none.
        DataError: no examples, or an example with a field that JSON cannot hold exactly.
    """
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown or not modes or len(set(modes)) < len(modes):
        raise ConfigError(f"`mode_rows(modes={tuple(modes)!r})` must name each of {', '.join(MODES)} at most once")
    if not examples:
        raise DataError("`mode_rows(examples=[])`: there is nothing to train on; give at least one example")
    kept = [(_shown(example), example_json(example)) for example in examples]
    return [{"prompt": shown, "mode": mode, "example": text} for mode in modes for shown, text in kept]


def example_json(example: dspy.Example) -> str:
    """An example as JSON. Raises DataError for a field that does not survive JSON unchanged."""
    fields = dict(example.items())
    for name, value in fields.items():
        try:
            same = json.loads(json.dumps(value)) == value
        except (TypeError, ValueError):
            same = False
        if not same:
            raise DataError(
                f"the example {str(fields.get('id', fields))[:120]} has a field `{name}` of type "
                f"{type(value).__name__}, which JSON cannot hold; give text, numbers, lists or objects with text keys"
            )
    inputs = sorted(example.inputs().keys()) if inputs_marked(example) else None
    return json.dumps({"fields": fields, "inputs": inputs}, ensure_ascii=False)


def example_of(row: Mapping[str, Any] | str) -> dspy.Example:
    """The example of a row, or of its `example` column. Raises DataError for a row that `mode_rows` did not make."""
    text = row if isinstance(row, str) else row.get("example")
    try:
        record = json.loads(text or "")
        example = dspy.Example(**record["fields"])
        return example if record["inputs"] is None else example.with_inputs(*record["inputs"])
    except (TypeError, ValueError, KeyError) as error:
        raise DataError(
            f"{str(row)[:120]} is not a row of `mode_rows(examples)`: its `example` cannot be read"
        ) from error


def _shown(example: dspy.Example) -> str:
    """The inputs as one text."""
    given = example.inputs() if inputs_marked(example) else example
    return "\n".join(str(value) for value in dict(given.items()).values())
