"""Checks of arguments that several verifiers and checks have."""

from __future__ import annotations

from typing import Any

import dspy

from pdr_dspy.errors import ConfigError
from pdr_dspy.settings import is_number, whole_number


def check_lm(owner: Any, lm: Any) -> None:
    """Raise ConfigError for an argument `lm` that is not a language model."""
    if not isinstance(lm, dspy.BaseLM):
        raise ConfigError(
            f"`{type(owner).__name__}(lm={lm!r})` must be a dspy.LM, e.g. `serving.connect(model, api_base)`"
        )


def check_threshold(owner: Any, threshold: float | None) -> None:
    """Raise ConfigError for a threshold outside of (0, 1]; None is allowed."""
    if threshold is not None and not (is_number(threshold) and 0 < threshold <= 1):
        raise ConfigError(f"`{type(owner).__name__}(threshold={threshold!r})` must be in (0, 1], or None")


def check_whole_numbers(owner: Any, *names: str) -> None:
    """Raise ConfigError for an attribute of these names that is not a whole number of at least 1."""
    for name in names:
        whole_number(f"{type(owner).__name__}(", name, getattr(owner, name))
