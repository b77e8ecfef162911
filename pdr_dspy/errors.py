"""Every error that this library raises on purpose.

    PDRError
    ├── ConfigError (ValueError)      an argument, a schedule or a signature cannot work as given
    │   └── MissingExtra              an optional dependency is not installed; the message has the install line
    ├── DataError (ValueError)        a data set, an example or a field of one is not usable
    ├── ServerError                   a model server
    │   ├── ServerStartError          ... could not be started; the message ends with the tail of its log
    │   └── EndpointError             ... does not answer, is not OpenAI-compatible, or lacks the model
    ├── WeightsError                  weights could not be found, downloaded or verified
    ├── RoundFailed                   every draft of a round failed; carries the ledger of what was spent
    ├── BudgetTooSmall (ConfigError)  not even the first stage fits the given budget
    ├── ArtifactError (ValueError)    a saved program is truncated, foreign, newer or tampered with
    ├── StoreError                    a run folder, store or study cannot be read or written
    └── CallError                     one request failed; recorded on the ledger, raised only where nothing is left

Messages name the argument in code form, the value that was given, and the remedy.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

    from pdr_dspy.budget import Call, Ledger


class PDRError(Exception):
    """Base of all errors raised by pdr_dspy."""


class ConfigError(PDRError, ValueError):
    """An argument, a schedule or a signature cannot work as given."""


class MissingExtra(ConfigError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f'{purpose} needs the package `{package}`: pip install "pdr-dspy[{extra}]"')
        self.package = package
        self.extra = extra


class DataError(PDRError, ValueError):
    """A data set, an example or a field of one is not usable."""


class ServerError(PDRError):
    """A model server failed."""


class ServerStartError(ServerError):
    """A model server could not be started."""


class EndpointError(ServerError):
    """A model server does not answer, is not OpenAI-compatible, or lacks the model."""


class WeightsError(PDRError):
    """Weights could not be found, downloaded or verified."""


class CallError(PDRError):
    """One request failed. It is recorded on the ledger; it is raised only where nothing else is left to answer from."""

    def __init__(self, message: str, call: Call | None = None) -> None:
        super().__init__(message)
        self.call = call
        """What is known of the request, for the ledger."""


class RoundFailed(PDRError):
    """Every draft of a round failed."""

    def __init__(self, message: str, ledger: Ledger) -> None:
        super().__init__(message)
        self.ledger = ledger
        """What was spent until then, failed calls included."""


class BudgetTooSmall(ConfigError):
    """Not even the first stage fits the given budget."""


class ArtifactError(PDRError, ValueError):
    """A saved program is truncated, foreign, newer or tampered with."""


class StoreError(PDRError):
    """A run folder, store or study cannot be read or written."""


def whole_number(owner: str, name: str, value: Any, *, least: int | None = 1) -> int:
    """`value` as an int, where it is a whole number of at least `least`, of whichever integer type.

    Args:
        owner: the call and what stands before the argument, such as "evaluate(".
        name: the argument's.
        value: what was given.
        least: the smallest that is allowed; None for any.

    Raises ConfigError.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        wanted = "a whole number" if least is None else f"a whole number of at least {least}"
        raise ConfigError(f"`{owner}{name}={value!r})` must be {wanted}")
    return number


def config_error(owner: str, error: ValidationError) -> ConfigError:
    """The first fault that pydantic found in the settings of `owner`, as one sentence of ours."""
    first = error.errors()[0]
    context = first.get("ctx", {})
    if first["type"] == "value_error" and "error" in context:
        return ConfigError(str(context["error"]))
    place = ".".join(str(part) for part in first["loc"])
    given = f"`{owner}({place}={first['input']!r})`"
    if first["type"] == "extra_forbidden":
        return ConfigError(f"{given}: there is no `{place}`; check its spelling against `help({owner})`")
    return ConfigError(f"{given}: {first['msg'].lower()}")
