"""The result of a program: a `dspy.Prediction` that prints in a few lines and can be written as JSON."""

from __future__ import annotations

from enum import Enum
from typing import Any

import dspy

from pdr_dspy.prompts.content import json_data

_SHOWN = 80
"""Maximum characters of a field in a printed prediction."""


class Prediction(dspy.Prediction):
    """The task's output fields, then `solution`, `ledger`, `rounds` and `stop`.

    Its repr is short; `prediction.ledger.calls` and `prediction.rounds` have the details. `toDict()` is JSON data, with
    enums as their values and models as objects, so that `json.dumps` and `dspy.Evaluate(save_as_json=...)` accept it.
    """

    def toDict(self) -> dict[str, Any]:  # noqa: N802  (DSPy's name)
        """All fields as JSON data."""
        return {name: json_data(value) for name, value in self.items()}

    def __repr__(self) -> str:
        fields = "".join(f"    {name}={_short(name, value)},\n" for name, value in self.items())
        return f"Prediction(\n{fields})"


def _short(name: str, value: Any) -> str:
    if name == "rounds" and isinstance(value, tuple):
        return f"<drafts by round: {'-'.join(str(len(round_.drafts)) for round_ in value)}>"
    text = repr(value.value if isinstance(value, Enum) else value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}… ({len(text):,} characters)"
