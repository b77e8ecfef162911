"""Verifiers: frozen values that score a prediction against an example, usable as DSPy metrics.

    ExactVerifier        the same text
    NumberVerifier       the same number, as a person reads it
    ChoiceVerifier       the same one of several options
    MathVerifier         the same mathematical value
    ProceduralVerifier   reasoning-gym's own scorer
    JudgeVerifier        a model says yes or no; its tokens are on the score
    CodeVerifier         hidden tests, run in a sandbox

All name the example's gold field (`gold="answer"`) and the prediction's field (`field="answer"`). What needs no gold
answer is in `verifiers.checks`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pdr_dspy.errors import ConfigError
from pdr_dspy.verifiers.base import Score, Verifier
from pdr_dspy.verifiers.choice import ChoiceVerifier
from pdr_dspy.verifiers.code import CodeVerifier
from pdr_dspy.verifiers.exact import ExactVerifier
from pdr_dspy.verifiers.judge import JudgeVerifier
from pdr_dspy.verifiers.math import MathVerifier
from pdr_dspy.verifiers.number import NumberVerifier
from pdr_dspy.verifiers.procedural import ProceduralVerifier

if TYPE_CHECKING:
    import dspy

__all__ = [
    "ChoiceVerifier",
    "CodeVerifier",
    "ExactVerifier",
    "JudgeVerifier",
    "MathVerifier",
    "NumberVerifier",
    "ProceduralVerifier",
    "Score",
    "Verifier",
    "load_verifier",
]

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        ExactVerifier,
        NumberVerifier,
        ChoiceVerifier,
        MathVerifier,
        ProceduralVerifier,
        JudgeVerifier,
        CodeVerifier,
    )
}


def load_verifier(description: Mapping[str, Any], *, lm: dspy.LM | None = None) -> Verifier:
    """Rebuild a verifier from what its `describe()` returned.

    A JudgeVerifier needs its model again: `lm`. Raises ConfigError for an unknown kind or setting, or a missing `lm`.
    """
    kind = _KINDS.get(str(description.get("kind")))
    if kind is None:
        raise ConfigError(f'`load_verifier({dict(description)!r})`: "kind" must be one of {", ".join(_KINDS)}')
    settings = {name: value for name, value in description.items() if name != "kind"}
    if kind is JudgeVerifier:
        if lm is None:
            raise ConfigError("`load_verifier(...)` of a JudgeVerifier needs its model: `lm=...`")
        settings = {**settings, "lm": lm}
        settings.pop("model", None)
    known = [field.name for field in dataclasses.fields(kind)]
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise ConfigError(
            f"`load_verifier(...)`: {kind.__name__} has no {', '.join(unknown)}; it has {', '.join(known)}"
        )
    return kind(**settings)
