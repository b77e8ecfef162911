"""Settings: the frozen base class of everything that users configure."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from types import UnionType
from typing import Any, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, ValidationInfo, field_validator

from pdr_dspy.arguments import meant, shown
from pdr_dspy.errors import ConfigError, WrongCall


class Settings(BaseModel):
    """A frozen record. Unknown names, wrong types and values that contradict each other raise ConfigError.

    A number is a number: no text, and neither True nor False. A switch is True or False.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, *unnamed: Any, **values: Any) -> None:
        if unnamed:
            owner, first = type(self).__name__, next(iter(type(self).model_fields), "")
            raise WrongCall(f"`{owner}({shown(unnamed[0])})` takes its values by name, such as `{owner}({first}=...)`")
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise config_error(type(self).__name__, error, type(self).model_fields) from None

    @field_validator("*", mode="before")
    @classmethod
    def _plain_type(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what pydantic would convert: texts as numbers, True as 1, "yes" as True."""
        name = str(info.field_name)
        field = cls.model_fields[name]
        if any(isinstance(one, BeforeValidator) for one in field.metadata):  # it reads other forms
            return value
        wanted = _mistyped(field.annotation, value)
        if wanted is not None:
            raise ValueError(f"`{cls.__name__}({name}={shown(value)})` must be {wanted}")
        return value


_WANTED = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}


def _mistyped(annotation: Any, value: Any) -> str | None:
    """What a value must be instead, if it is of a plain type that is easily taken for another; None if it may be right:
    pydantic has the last word."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        if any(part is type(None) and value is None for part in parts):
            return None
        wanted = [_mistyped(part, value) for part in parts if part is not type(None)]
        none = ", or None" if type(None) in parts else ""
        return None if None in wanted else f"{' or '.join(dict.fromkeys(str(each) for each in wanted))}{none}"
    if annotation in (int, float):
        number = not isinstance(value, (bool, str, bytes)) and value is not None
        part = annotation is int and isinstance(value, float) and not value.is_integer()  # also nan and infinity
        return None if number and not part else _WANTED[annotation]
    if annotation in (bool, str):
        return None if isinstance(value, annotation) else _WANTED[annotation]
    if origin is tuple and len(parts) == 2 and parts[1] is Ellipsis and parts[0] in _WANTED:
        each = f"a sequence of {_WANTED[parts[0]].removeprefix('a ')}s"
        example = {int: ", such as (8, 1)", str: ', such as ("a", "b")'}.get(parts[0], "")
        if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
            return each + example
        items = list(value) if isinstance(value, (list, tuple)) else []
        return f"{each}{example}" if any(_mistyped(parts[0], item) for item in items) else None
    return None


def config_error(owner: str, error: ValidationError, known: Mapping[str, Any] | None = None) -> ConfigError:
    """A ConfigError for the first fault that pydantic found in the settings of `owner`.

    Args:
        owner: the class or call, as messages show it.
        error: pydantic's.
        known: the settings by name, for unknown ones.
    """
    first = error.errors()[0]
    context = first.get("ctx", {})
    if first["type"] == "value_error" and "error" in context:
        return ConfigError(str(context["error"]))
    place = ".".join(str(part) for part in first["loc"])
    given = f"`{owner}({place}={shown(first['input'])})`"
    if first["type"] == "extra_forbidden":
        remedy = meant(place, tuple(known)) if known else f"check its spelling against `help({owner})`"
        return WrongCall(f"{given}: there is no `{place}`; {remedy}")
    said = first["msg"][:1].lower() + first["msg"][1:]
    rest = said.removeprefix("input should be ")
    return ConfigError(f"{given}: {said}" if rest == said else f"{given} must be {rest}")


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether it is a number that an argument can be: an int or a float, neither True nor False. NaN is one."""
    return isinstance(value, int | float) and not isinstance(value, bool)


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
        raise ConfigError(f"`{owner}{name}={shown(value)})` must be {wanted}")
    return number
