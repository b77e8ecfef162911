"""Functions as verifiers: DSPy's metrics, and any other callable that scores a prediction against an example."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import json
import logging
import math
import textwrap
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from pdr_dspy.arguments import explained
from pdr_dspy.calls.dspy_bridge import inputs_marked
from pdr_dspy.errors import ConfigError
from pdr_dspy.runtime import event_loop
from pdr_dspy.runtime.raised_by import contained
from pdr_dspy.verifiers.base import Score, Verifier
from pdr_dspy.verifiers.fields import as_text, lookup, short

logger = logging.getLogger("pdr_dspy")
if TYPE_CHECKING:
    import dspy

_ARGUMENTS = 5
"""The largest number of a metric's arguments: example, prediction, trace, and GEPA's predictor name and trace."""


@explained
def as_verifier(metric: Any, *, argument: str = "verifier=...") -> Verifier:
    """Return a verifier unchanged, and any other callable as a verifier.

    A metric takes an example and a prediction, and up to three more arguments (DSPy's `trace`, GEPA's `pred_name` and
    `pred_trace`), which are None here. It returns a bool, a number from 0 to 1, a `Score`, or an object with a `score`
    and optionally a `feedback`, such as a `dspy.Prediction`. It may be async, a lambda, a `functools.partial`, a
    method, an object with `__call__`, or a `dspy.Module`.

    >>> as_verifier(lambda example, prediction: prediction.answer == example.answer)
    <verifier lambda>

    Args:
        metric: the verifier or metric.
        argument: the caller's argument in messages; the dots are replaced by the metric.

    Raises ConfigError for an object that cannot be called with an example and a prediction.
    """
    if isinstance(metric, type) or not callable(metric):
        raise ConfigError(
            f"`{argument.replace('...', repr(metric))}` must be a verifier, such as `NumberVerifier()`, or a metric "
            "`f(example, prediction)` that returns a bool or a number from 0 to 1"
        )
    if is_verifier(metric):
        _check_described(metric, argument)
        return metric
    arguments = _arguments(metric, argument)
    if _is_async(metric) or callable(getattr(metric, "averify", None)):
        return AsyncFunctionVerifier(metric, arguments)
    return FunctionVerifier(metric, arguments)


def _check_described(verifier: Verifier, argument: str) -> None:
    """Raise ConfigError for a description that a run folder cannot store, before any token is spent."""
    described = verifier.describe()
    try:
        json.dumps(described, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"`{argument.replace('...', repr(verifier))}`: its `describe()` must be JSON data ({error})"
        ) from error


def is_verifier(value: Any) -> TypeGuard[Verifier]:
    """Whether a value has the methods of a verifier."""
    return all(callable(getattr(value, name, None)) for name in ("__call__", "check_gold", "describe"))


@dataclass(frozen=True, repr=False)
class FunctionVerifier:
    """A user's metric. Make it with `as_verifier`."""

    function: Callable[..., Any]
    arguments: int = 2
    """The number of positional arguments that it is called with; None follows the prediction."""

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        """The metric's verdict. Raises ValueError if it returns something else than a score."""
        found = self._call(example, prediction)
        if inspect.isawaitable(found):
            waited: Awaitable[Any] = found
            found = event_loop.run(lambda: waited)
        return self._score(found, example, prediction)

    def check_gold(self, example: dspy.Example) -> None:
        """Do nothing, since the fields that a metric reads are unknown."""

    def describe(self) -> dict[str, Any]:
        """The metric's name, its plain settings, and a digest of its code, so that different metrics of one name are
        different verifiers. `load_verifier` cannot rebuild it."""
        own = getattr(self.function, "describe", None)
        if callable(own) and isinstance(described := own(), dict):
            return described
        return {"kind": "function", "name": self.name, **_identity(self.function)}

    @property
    def gold(self) -> str | None:
        """The example's gold field, if the metric has an attribute for it."""
        return getattr(self.function, "gold", None)

    @property
    def name(self) -> str:
        """The metric's name."""
        inner = self.function
        while isinstance(inner, functools.partial):
            inner = inner.func
        name = getattr(inner, "__qualname__", None) or type(inner).__qualname__
        return name.rpartition("<locals>.")[2].strip("<>")

    def __repr__(self) -> str:
        return f"<verifier {self.name}>"

    def _call(self, example: dspy.Example, prediction: dspy.Prediction) -> Any:
        return self.function(example, prediction, *(None,) * (self.arguments - 2))

    def _score(self, found: Any, example: dspy.Example, prediction: dspy.Prediction) -> Score:
        if isinstance(found, Score):
            return found
        value = lookup(found, "score") if _has(found, "score") else found
        words = lookup(found, "feedback") if _has(found, "feedback") else None
        number = self._number(value)
        return Score(number, str(words) if words else self._reason(number, example, prediction))

    def _number(self, value: Any) -> float:
        try:
            number = math.nan if value is None or isinstance(value, str | bytes) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if -1e-9 <= number <= 1 + 1e-9:
            return min(1.0, max(0.0, number))
        hint = "it has no `return`" if value is None else "divide a percentage by 100" if number > 1 else ""
        raise ValueError(
            f"the metric `{self.name}` returned {short(repr(value))}; it must give a bool or a number from 0 to 1"
            + (f" ({hint}?)" if hint else "")
        )

    def _reason(self, number: float, example: Any, prediction: Any) -> str:
        """The detail of a score: the fields in which the prediction differs from the example."""
        if number >= 1:
            return f"{self.name} gives 1"
        inputs = set(example.inputs().keys()) if inputs_marked(example) else set()
        names = [name for name in getattr(prediction, "keys", list)() if name in example and name not in inputs]
        pairs = [(name, as_text(prediction[name]), as_text(example[name])) for name in names]
        differ = [f"{name} is {short(is_)}, not {short(gold)}" for name, is_, gold in pairs if is_ != gold]
        return f"{self.name} gives {number:g}" + (f": {'; '.join(differ[:4])}" if differ else "")


@dataclass(frozen=True, repr=False)
class AsyncFunctionVerifier(FunctionVerifier):
    """A user's async metric, or an object with `averify`. Make it with `as_verifier`."""

    async def averify(self, example: dspy.Example, prediction: dspy.Prediction) -> Score:
        """The metric's verdict, awaited on the caller's event loop."""
        own = getattr(self.function, "averify", None)
        found = self._call(example, prediction) if own is None else own(example, prediction)
        return self._score(await found if inspect.isawaitable(found) else found, example, prediction)


def try_on_gold(verifier: Verifier, example: dspy.Example, outputs: tuple[str, ...]) -> None:
    """Call a plain metric once with the example's gold answer as the prediction, before any token is spent.

    It must return a score; its exceptions are only logged, since it may read fields that only a program returns.
    Verifiers, async metrics and DSPy modules, which may call a model, are skipped.

    Raises ConfigError if it returns something else than a score.
    """
    import dspy

    if type(verifier) is not FunctionVerifier or isinstance(verifier.function, dspy.Module):
        return
    if not outputs or any(name not in example for name in outputs):
        return
    prediction = dspy.Prediction(**{name: example[name] for name in outputs})
    try:
        with contained("the metric"):
            found = verifier._call(example, prediction)
    except Exception as error:
        logger.warning(
            "the metric `%s` raised %s on the gold answer of an example; what it raises for is a failed row",
            verifier.name,
            short(f"{type(error).__name__}: {error}"),
        )
        return
    if inspect.iscoroutine(found):
        found.close()
        return
    try:
        verifier._score(found, example, prediction)
    except ValueError as error:
        raise ConfigError(f"{error}; it was called with the gold answer of an example") from None


def _arguments(metric: Any, argument: str) -> int:
    """The number of positional arguments to call a metric with."""
    try:
        parameters = inspect.signature(metric).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return 2
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    needed = [each for each in positional if each.default is each.empty]
    named = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY and each.default is each.empty]
    many = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    if (len(positional) < 2 and not many) or len(needed) > _ARGUMENTS or named:
        raise ConfigError(
            f"`{argument.replace('...', getattr(metric, '__qualname__', repr(metric)))}` is "
            f"`f{inspect.signature(metric)}`, which cannot be called with an example and a prediction; a metric is "
            "`f(example, prediction)`, with up to three more arguments (`trace`, `pred_name`, `pred_trace`)"
        )
    return max(2, len(needed))


def _is_async(metric: Any) -> bool:
    return inspect.iscoroutinefunction(metric) or inspect.iscoroutinefunction(getattr(metric, "__call__", None))  # noqa: B004


def _has(found: Any, name: str) -> bool:
    """Whether a verdict is a record with this field. A number is never one, whatever its attributes."""
    if isinstance(found, int | float):
        return False
    return name in found if hasattr(found, "keys") else hasattr(found, name)


def _identity(function: Any) -> dict[str, Any]:
    """The code and the settings of a metric, which distinguish it from others of the same name."""
    if isinstance(function, functools.partial):
        inner = _identity(function.func)
        return {**inner, "bound": [_plain(function.args), _plain(function.keywords)]}
    if inspect.ismethod(function):
        return {**_identity(function.__func__), **_settings(function.__self__)}
    if inspect.isfunction(function):
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        closed = {name: _plain(_content(cell)) for name, cell in cells.items()}
        return {"code": _digest(function), **({"closed": closed} if closed else {})}
    call = next((vars(cls)["__call__"] for cls in type(function).__mro__ if "__call__" in vars(cls)), None)
    own = {"code": _digest(call)} if inspect.isfunction(call) else {}
    return {**own, **_settings(function)}


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled
        return None


def _settings(value: Any) -> dict[str, Any]:
    own = {name: _plain(each) for name, each in getattr(value, "__dict__", {}).items() if not name.startswith("_")}
    return {"settings": own} if own else {}


def _plain(value: Any) -> Any:
    """Plain data unchanged; the type's name of anything else, whose text may contain an address."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(each) for each in value), key=repr)
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return getattr(value, "__qualname__", None) or type(value).__qualname__


def _digest(function: Any) -> str:
    """A digest of a function's source without comments and layout, or of its bytecode if the source is unavailable."""
    text = ""
    if function.__name__ != "<lambda>":  # the source of a line may hold several lambdas
        try:
            text = ast.dump(ast.parse(textwrap.dedent(inspect.getsource(function))))
        except (OSError, TypeError, SyntaxError):
            text = ""
    return hashlib.sha256((text or _bytecode(function.__code__)).encode()).hexdigest()[:16]


def _bytecode(code: Any) -> str:
    constants = [_bytecode(each) if inspect.iscode(each) else repr(_plain(each)) for each in code.co_consts]
    return f"{code.co_code.hex()}|{constants}|{code.co_names}|{code.co_varnames}"
