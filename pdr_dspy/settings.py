"""Settings: the frozen base class of everything that users configure."""

from __future__ import annotations

import operator
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pdr_dspy.errors import ConfigError


class Settings(BaseModel):
    """A frozen record. Unknown names, wrong types and values that contradict each other raise ConfigError."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise config_error(type(self).__name__, error) from None


def config_error(owner: str, error: ValidationError) -> ConfigError:
    """A ConfigError for the first fault that pydantic found in the settings of `owner`."""
    first = error.errors()[0]
    context = first.get("ctx", {})
    if first["type"] == "value_error" and "error" in context:
        return ConfigError(str(context["error"]))
    place = ".".join(str(part) for part in first["loc"])
    given = f"`{owner}({place}={first['input']!r})`"
    if first["type"] == "extra_forbidden":
        return ConfigError(f"{given}: there is no `{place}`; check its spelling against `help({owner})`")
    return ConfigError(f"{given}: {first['msg'].lower()}")


def whole_number(owner: str, name: str, value: Any, *, least: int | None = 1) -> int:
    """Return `value`, of any integer type, as an int.

    Args:
        owner: the call as messages show it, up to the argument, such as "evaluate(".
        name: the argument's name.
        value: the argument's value.
        least: the smallest value that is allowed; None for no bound.

    Raises ConfigError for anything but a whole number of at least `least`.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        wanted = "a whole number" if least is None else f"a whole number of at least {least}"
        raise ConfigError(f"`{owner}{name}={value!r})` must be {wanted}")
    return number
