"""Checks from what they say of themselves: those of the library whose settings are plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from pdr_dspy.errors import ConfigError
from pdr_dspy.verifiers.checks.base import Check
from pdr_dspy.verifiers.checks.code import CodeCheck
from pdr_dspy.verifiers.checks.constraint import ConstraintCheck
from pdr_dspy.verifiers.checks.judge import JudgeCheck, PairwiseCheck

_MADE: dict[str, Callable[..., Check]] = {
    make.__name__: make for make in (CodeCheck, ConstraintCheck, JudgeCheck, PairwiseCheck)
}
DESCRIBED = tuple(_MADE)
"""Kinds of checks that a file can hold."""


def load_check(description: Mapping[str, Any]) -> Check:
    """Rebuild a check from what its `describe()` returned.

    Args:
        description: the settings, with the class under "kind", one of `DESCRIBED`; a calibration is left aside.

    Raises ConfigError for another kind, an unknown setting, or a check that asks a model of its own: a file names that
    model and does not hold it.
    """
    kind = description.get("kind")
    make = _MADE.get(kind) if isinstance(kind, str) else None
    if make is None:
        raise ConfigError(f"`load_check(...)`: {kind!r} is no check that a file can hold; they are {', '.join(_MADE)}")
    settings = {name: value for name, value in description.items() if name not in ("kind", "calibration")}
    if "lm" in _settings(make) and (model := settings.pop("model", None)) is not None:
        raise ConfigError(f"`load_check(...)`: {kind} asks the model {model!r}, which no file can hold; give it again")
    if unknown := set(settings) - _settings(make):
        raise ConfigError(f"`load_check(...)`: {kind} has no setting {min(unknown)!r}")
    return make(**settings)


def _settings(made: Any) -> set[str]:
    assert is_dataclass(made)
    return {field.name for field in fields(made)}
