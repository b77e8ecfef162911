"""Verifiers by name: built in, registered with `@verifier`, or of installed packages."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pdr_dspy.arguments import explained
from pdr_dspy.errors import ConfigError
from pdr_dspy.runtime.registry import Registry, origin_of
from pdr_dspy.verifiers.answer import AnswerVerifier
from pdr_dspy.verifiers.base import Verifier
from pdr_dspy.verifiers.choice import ChoiceVerifier
from pdr_dspy.verifiers.code import CodeVerifier
from pdr_dspy.verifiers.exact import ExactVerifier
from pdr_dspy.verifiers.function import as_verifier
from pdr_dspy.verifiers.judge import JudgeVerifier
from pdr_dspy.verifiers.math import MathVerifier
from pdr_dspy.verifiers.number import NumberVerifier
from pdr_dspy.verifiers.procedural import ProceduralVerifier

if TYPE_CHECKING:
    import dspy

Make = Callable[..., Verifier]
"""A constructor of a verifier from its settings: a class or a function."""
M = TypeVar("M", bound=Make)

BUILT_IN: dict[str, Make] = {
    "exact": ExactVerifier,
    "number": NumberVerifier,
    "choice": ChoiceVerifier,
    "math": MathVerifier,
    "procedural": ProceduralVerifier,
    "judge": JudgeVerifier,
    "answer": AnswerVerifier,
    "code": CodeVerifier,
}
FROM = "from"
"""Key of a saved description for the origin of a verifier that is not built in, "module:attribute"."""
_KINDS = {origin: name for name, make in BUILT_IN.items() if (origin := getattr(make, "__name__", None))}
"""The names of the built-in verifiers in descriptions."""


def _check(name: str, found: Any) -> Make:
    if not callable(found):
        raise ConfigError(
            f"it is of the type {type(found).__name__}; give a class, or a function that returns a verifier"
        )
    return cast("Make", found)


VERIFIERS: Registry[Make] = Registry(
    "verifier",
    group="pdr_dspy.verifiers",
    built_in=BUILT_IN,
    check=_check,
    hint='Register it with `@pdr_dspy.verifier("name")`, or install the package that has it',
)
"""All verifiers: the constructor of each name."""


@explained
def verifier(name: str) -> Callable[[M], M]:
    """Register a verifier for `load_verifier({"kind": name, ...})` and `--verifier name`.

    >>> @pdr_dspy.verifier("first-letter")
    ... @dataclass(frozen=True)
    ... class FirstLetterVerifier(Fields):
    ...     def __call__(self, example, prediction, trace=None):
    ...         return Score(prediction.answer[:1] == example.answer[:1])

    Args:
        name: the "kind" of its `describe()`. It is set as the attribute `kind` of a class without one, which
            `Fields.describe` returns.

    Returns:
        A decorator for a class, or for a function that returns a verifier. A setting named `lm` is the verifier's
        language model.

    Raises ConfigError for a name that is taken.
    """

    def register(make: M) -> M:
        VERIFIERS.add(name, make, origin=origin_of(make))
        if inspect.isclass(make) and "kind" not in vars(make):
            setattr(make, "kind", name)  # noqa: B010  (a user's class has no such attribute yet)
        return make

    return register


def settings_of(name: str) -> tuple[str, ...]:
    """The names of a verifier's settings. Raises ConfigError for an unknown verifier."""
    return tuple(inspect.signature(VERIFIERS.find(name)).parameters)


def asks_model(name: str) -> bool:
    """Whether a verifier needs a language model. Raises ConfigError for an unknown verifier."""
    model = inspect.signature(VERIFIERS.find(name)).parameters.get("lm")
    return model is not None and model.default is inspect.Parameter.empty


@explained
def load_verifier(description: Mapping[str, Any], *, lm: dspy.LM | None = None, trusted: bool = False) -> Verifier:
    """Rebuild a verifier from its `describe()`, also as stored in a saved program.

    Args:
        description: the settings, with the verifier's name under "kind"; a saved program adds the origin of a verifier
            that is not built in under "from".
        lm: the language model of a verifier that needs one, such as a JudgeVerifier.
        trusted: whether to import the module that "from" names for an unregistered verifier; that runs its code.

    Raises ConfigError for an unknown kind or setting, or a missing `lm`.
    """
    kind, origin = str(description.get("kind")), description.get(FROM)
    if kind == "function":
        raise ConfigError(
            f"`load_verifier(...)`: `{description.get('name')}` is a user's function; import it and pass it directly"
        )
    name = _KINDS.get(kind, kind)
    try:
        if name not in VERIFIERS and isinstance(origin, str):
            if not trusted:
                missing = VERIFIERS.unknown(name, origin)
                raise ConfigError(
                    f"{missing}; or, if you trust the description, `load_verifier(..., trusted=True)` imports it"
                )
            VERIFIERS.trust(name, origin)
        make = VERIFIERS.find(name)
    except ConfigError as error:
        raise ConfigError(f"`load_verifier({dict(description)!r})`: {error}") from error
    settings = {key: value for key, value in description.items() if key not in ("kind", FROM)}
    parameters = inspect.signature(make).parameters
    if "lm" in parameters:
        settings.pop("model", None)  # a description has only the model's name
        if lm is not None:
            settings["lm"] = lm
        elif asks_model(name):
            raise ConfigError(f"`load_verifier(...)`: the verifier {kind!r} needs its language model, `lm=...`")
    anything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [key for key in settings if key not in parameters and not anything]
    if unknown:
        raise ConfigError(
            f"`load_verifier(...)`: {kind} has no setting {', '.join(unknown)}; it has {', '.join(parameters)}"
        )
    return as_verifier(make(**settings))
