"""Rebuilding checks from their descriptions: the built-in checks with plain settings."""

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
"""Kinds of checks that a file can store."""


def load_check(description: Mapping[str, Any]) -> Check:
    """Rebuild a check from its `describe()`.

    Args:
        description: the settings, with the class, one of `DESCRIBED`, under "kind"; a calibration is ignored.

    Raises ConfigError for another kind, an unknown setting, or a check with a model of its own, since a file stores
    only the model's name.
    """
    kind = description.get("kind")
    make = _MADE.get(kind) if isinstance(kind, str) else None
    if make is None:
        raise ConfigError(
            f"`load_check(...)`: {kind!r} is not a check that a file can store; known: {', '.join(_MADE)}"
        )
    settings = {name: value for name, value in description.items() if name not in ("kind", "calibration")}
    if "lm" in _settings(make) and (model := settings.pop("model", None)) is not None:
        raise ConfigError(
            f"`load_check(...)`: {kind} uses the model {model!r}, which a file cannot store; construct the check with "
            "its model"
        )
    if unknown := set(settings) - _settings(make):
        raise ConfigError(f"`load_check(...)`: {kind} has no setting {min(unknown)!r}")
    return make(**settings)


def _settings(made: Any) -> set[str]:
    assert is_dataclass(made)
    return {field.name for field in fields(made)}
