"""What a program returns: a `dspy.Prediction` that prints in a few lines and can be written as JSON."""

from __future__ import annotations

from typing import Any

import dspy
from pydantic import BaseModel, TypeAdapter

from pdr_dspy.calls.ledger import Ledger

_SHOWN = 80
"""Characters of a text in a printed prediction."""


class Prediction(dspy.Prediction):
    """The task's output fields, then `solution`, `ledger`, `rounds` and `stop`.

    It prints short; `prediction.ledger.calls` and `prediction.rounds` have the details. `toDict()` is JSON data, with
    enums as their values and models as objects, so that `json.dumps` and `dspy.Evaluate(save_as_json=...)` take it.
    """

    def toDict(self) -> dict[str, Any]:  # noqa: N802  (DSPy's name)
        """All fields as plain data."""
        return {name: plain(value) for name, value in self.items()}

    def __repr__(self) -> str:
        fields = "".join(f"    {name}={_short(value)},\n" for name, value in self.items())
        return f"Prediction(\n{fields})"


def plain(value: Any) -> Any:
    """A value as JSON data; what JSON has no form for becomes text."""
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", fallback=str)
    try:
        return TypeAdapter(type(value)).dump_python(value, mode="json", fallback=str)
    except Exception:  # a type that pydantic knows nothing of
        return str(value)


def _short(value: Any) -> str:
    if isinstance(value, Ledger):
        return str(value)
    if isinstance(value, tuple) and value and all(hasattr(each, "drafts") for each in value):
        return f"<{len(value)} round{'s' if len(value) > 1 else ''}: {'-'.join(str(len(each.drafts)) for each in value)} drafts>"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}… ({len(text)} characters)"
