"""A plain function as a verifier: DSPy's metrics, and whatever else scores a prediction against an example."""

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

from pdr_dspy.calls.dspy_bridge import inputs_marked
from pdr_dspy.errors import ConfigError
from pdr_dspy.runtime import event_loop
from pdr_dspy.verifiers.base import Score, Verifier
from pdr_dspy.verifiers.fields import as_text, lookup, short

logger = logging.getLogger("pdr_dspy")
if TYPE_CHECKING:
    import dspy

_ARGUMENTS = 5
"""Most arguments of a metric: example, prediction, trace, and for GEPA the predictor's name and trace."""


def as_verifier(metric: Any, *, argument: str = "verifier=...") -> Verifier:
    """A verifier of what a user gave: a verifier as it is, anything else that can be called as a metric.

    A metric takes an example and a prediction, and may have up to three more arguments (DSPy's `trace`, GEPA's
    `pred_name` and `pred_trace`), which are None here. It returns a bool or a number from 0 to 1, a `Score`, or what
    has a `score` and perhaps a `feedback`, such as a `dspy.Prediction`. It may be async, a lambda, a
    `functools.partial`, a method, an object with `__call__`, or a `dspy.Module`.

    >>> as_verifier(lambda example, prediction: prediction.answer == example.answer)
    <verifier lambda>

    Args:
        metric: the verifier or metric.
        argument: what it was given as, for the message; the dots stand for it.

    Raises ConfigError for what cannot be called with an example and a prediction.
    """
    if isinstance(metric, type) or not callable(metric):
        raise ConfigError(
            f"`{argument.replace('...', repr(metric))}` must be a verifier, such as `NumberVerifier()`, or a metric "
            "`f(example, prediction)` that gives a bool or a number from 0 to 1"
        )
    if is_verifier(metric):
        _check_described(metric, argument)
        return metric
    arguments = _arguments(metric, argument)
    if _is_async(metric) or callable(getattr(metric, "averify", None)):
        return AsyncFunctionVerifier(metric, arguments)
    return FunctionVerifier(metric, arguments)


def _check_described(verifier: Verifier, argument: str) -> None:
    """Raise ConfigError for a description that no run folder could hold: it would be missed when all is paid."""
    described = verifier.describe()
    try:
        json.dumps(described, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"`{argument.replace('...', repr(verifier))}`: its `describe()` must be JSON data ({error})"
        ) from error


def is_verifier(value: Any) -> TypeGuard[Verifier]:
    """Whether a value has all that a verifier has."""
    return all(callable(getattr(value, name, None)) for name in ("__call__", "check_gold", "describe"))


@dataclass(frozen=True, repr=False)
class FunctionVerifier:
    """A metric of the user's. Make it with `as_verifier`."""

    function: Callable[..., Any]
    arguments: int = 2
    """How many positional arguments it is called with; those after the prediction are None."""

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        """The metric's verdict. Raises ValueError when it returned something that is no score."""
        found = self._call(example, prediction)
        if inspect.isawaitable(found):
            waited: Awaitable[Any] = found
            found = event_loop.run(lambda: waited)
        return self._score(found, example, prediction)

    def check_gold(self, example: dspy.Example) -> None:
        """Nothing: what a metric reads of an example, only the metric knows."""

    def describe(self) -> dict[str, Any]:
        """The metric's name, its settings as far as they are plain values, and a digest of its code, so that another
        metric of the same name is another verifier. `load_verifier` cannot rebuild it."""
        own = getattr(self.function, "describe", None)
        if callable(own) and isinstance(described := own(), dict):
            return described
        return {"kind": "function", "name": self.name, **_identity(self.function)}

    @property
    def gold(self) -> str | None:
        """The example's gold field, where the metric names one."""
        return getattr(self.function, "gold", None)

    @property
    def name(self) -> str:
        """The metric's own name."""
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
        """What a reader of a row wants to know first: where the prediction differs from the example."""
        if number >= 1:
            return f"{self.name} gives 1"
        inputs = set(example.inputs().keys()) if inputs_marked(example) else set()
        names = [name for name in getattr(prediction, "keys", list)() if name in example and name not in inputs]
        pairs = [(name, as_text(prediction[name]), as_text(example[name])) for name in names]
        differ = [f"{name} is {short(is_)}, not {short(gold)}" for name, is_, gold in pairs if is_ != gold]
        return f"{self.name} gives {number:g}" + (f": {'; '.join(differ[:4])}" if differ else "")


@dataclass(frozen=True, repr=False)
class AsyncFunctionVerifier(FunctionVerifier):
    """An async metric of the user's, or an object with `averify`. Make it with `as_verifier`."""

    async def averify(self, example: dspy.Example, prediction: dspy.Prediction) -> Score:
        """The metric's verdict, awaited on the caller's event loop."""
        own = getattr(self.function, "averify", None)
        found = self._call(example, prediction) if own is None else own(example, prediction)
        return self._score(await found if inspect.isawaitable(found) else found, example, prediction)


def try_on_gold(verifier: Verifier, example: dspy.Example, outputs: tuple[str, ...]) -> None:
    """Ask a plain metric once about a prediction that is the example's own gold answer, before anything is paid.

    What it returns must be a score; what it raises is logged alone, since it may read what only a program has.
    Verifiers, async metrics and metrics that are DSPy modules, which may call a model, are left alone.

    Raises ConfigError when it returns no score.
    """
    import dspy

    if type(verifier) is not FunctionVerifier or isinstance(verifier.function, dspy.Module):
        return
    if not outputs or any(name not in example for name in outputs):
        return
    prediction = dspy.Prediction(**{name: example[name] for name in outputs})
    try:
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
        raise ConfigError(f"{error}; it was asked about the gold answer of an example") from None


def _arguments(metric: Any, argument: str) -> int:
    """How many positional arguments a metric is called with."""
    try:
        parameters = inspect.signature(metric).parameters.values()
    except (TypeError, ValueError):  # a builtin that does not say
        return 2
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    needed = [each for each in positional if each.default is each.empty]
    named = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY and each.default is each.empty]
    many = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    if (len(positional) < 2 and not many) or len(needed) > _ARGUMENTS or named:
        raise ConfigError(
            f"`{argument.replace('...', getattr(metric, '__qualname__', repr(metric)))}` is "
            f"`f{inspect.signature(metric)}`, which cannot be called with an example and a prediction; a metric is "
            "`f(example, prediction)`, with up to three arguments more (`trace`, `pred_name`, `pred_trace`)"
        )
    return max(2, len(needed))


def _is_async(metric: Any) -> bool:
    return inspect.iscoroutinefunction(metric) or inspect.iscoroutinefunction(getattr(metric, "__call__", None))  # noqa: B004


def _has(found: Any, name: str) -> bool:
    """Whether a verdict is a record with this field. A number is none, whatever attributes it has."""
    if isinstance(found, int | float):
        return False
    return name in found if hasattr(found, "keys") else hasattr(found, name)


def _identity(function: Any) -> dict[str, Any]:
    """What tells a metric from another one of its name: its code and its settings."""
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
    """Plain data as it is; of anything else the name of its type: its text may have an address in it."""
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
    """Of a function's source, comments and layout left out; of its bytecode where there is no source of its own."""
    text = ""
    if function.__name__ != "<lambda>":  # of several lambdas in one line the source does not say which it is
        try:
            text = ast.dump(ast.parse(textwrap.dedent(inspect.getsource(function))))
        except (OSError, TypeError, SyntaxError):
            text = ""
    return hashlib.sha256((text or _bytecode(function.__code__)).encode()).hexdigest()[:16]


def _bytecode(code: Any) -> str:
    constants = [_bytecode(each) if inspect.iscode(each) else repr(_plain(each)) for each in code.co_consts]
    return f"{code.co_code.hex()}|{constants}|{code.co_names}|{code.co_varnames}"
