"""Calls with wrong arguments: errors that say which name was meant, in place of Python's "unexpected keyword"."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from pdr_dspy.errors import WrongCall

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")

_ELSEWHERE: dict[str, tuple[str, ...]] = {
    "N": ("n", "rounds"),
    "api_url": ("api_base",),
    "base_url": ("api_base",),
    "budget": ("max_total",),
    "checks": ("check",),
    "data": ("examples", "trainset"),
    "dataset": ("examples", "trainset"),
    "devset": ("examples", "valset"),
    "display_progress": ("progress",),
    "function": ("run", "check", "metric"),
    "iterations": ("rounds",),
    "k": ("n",),
    "limit": ("size",),
    "lm": ("models",),
    "max_errors": ("max_failures",),
    "max_iters": ("rounds",),
    "max_tokens": ("draft_tokens", "total"),
    "metric": ("verifier", "function"),
    "model": ("lm",),
    "module": ("signature", "program", "student"),
    "n": ("rounds", "widths", "size"),
    "num_candidates": ("prompts",),
    "num_iterations": ("rounds",),
    "num_samples": ("n", "widths"),
    "num_threads": ("max_in_flight",),
    "num_trials": ("trials",),
    "output_dir": ("run_dir",),
    "preset": ("schedule",),
    "program": ("student", "signature"),
    "reflection_lm": ("prompt_model",),
    "reward": ("check",),
    "reward_fn": ("check", "function"),
    "samples": ("n", "widths"),
    "save_dir": ("run_dir",),
    "testset": ("examples", "valset"),
    "threshold": ("stop_at",),
    "timeout": ("time_limit", "seconds"),
    "tokens": ("total",),
    "train": ("trainset",),
    "verifier": ("metric",),
    "width": ("widths",),
}
"""What other libraries, DSPy first, call arguments of this one: each with the names that may be meant here."""


def meant(name: str, known: Collection[str]) -> str:
    """The remedy for an argument that there is not: the name that was probably meant, else all names."""
    elsewhere = [here for here in _ELSEWHERE.get(name, ()) if here in known]
    close = get_close_matches(name, known, n=1, cutoff=0.7) or get_close_matches(name.lower(), known, n=1, cutoff=0.7)
    found = elsewhere or close
    if found:
        return f"did you mean `{found[0]}=`?"
    return f"the names are {', '.join(known)}" if known else "it takes none"


def shown(value: Any) -> str:
    """A value in a message, in at most 100 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def explained(made: C) -> C:
    """Decorates a public function or class: a call with arguments that it does not take raises WrongCall, which names
    the argument, its value and the remedy."""
    return explained_with(())(made)


def explained_with(more: Iterable[str] | Callable[[], Iterable[str]]) -> Callable[[C], C]:
    """`explained`, for a function with `**keywords`.

    Args:
        more: the names that those may have; a function is called when a call is checked.
    """

    def decorated(made: C) -> C:
        if isinstance(made, type):
            own: Any = made
            own.__init__ = _checking(own.__init__, own.__name__, more, method=True)
            return made
        function = cast("Callable[..., Any]", made)
        first = next(iter(inspect.signature(function).parameters), "")
        owner, _, name = function.__qualname__.rpartition(".")
        called = owner if name == "__init__" else function.__qualname__.rpartition("<locals>.")[2]
        return cast("C", _checking(function, called, more, method=first == "self"))

    return decorated


def _checking(
    function: Callable[P, R], called: str, more: Iterable[str] | Callable[[], Iterable[str]], *, method: bool
) -> Callable[P, R]:
    signature = inspect.signature(function)
    open_ended = any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values())
    names = frozenset(signature.parameters)

    def check(args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        others = tuple(more() if callable(more) else more) if open_ended else ()
        try:
            signature.bind(*args, **keywords)
            if not others or keywords.keys() <= names.union(others):
                return
        except TypeError:
            pass
        raise WrongCall(_explanation(signature, called, args[1:] if method else args, keywords, others, method=method))

    if inspect.iscoroutinefunction(function):
        asynchronous = cast("Callable[P, Any]", function)

        @wraps(function)
        async def awaited(*args: P.args, **keywords: P.kwargs) -> Any:
            check(args, keywords)
            return await asynchronous(*args, **keywords)

        return cast("Callable[P, R]", awaited)

    @wraps(function)
    def checked(*args: P.args, **keywords: P.kwargs) -> R:
        check(args, keywords)
        return function(*args, **keywords)

    return checked


def _explanation(
    signature: inspect.Signature,
    called: str,
    args: tuple[Any, ...],
    keywords: dict[str, Any],
    more: Collection[str],
    *,
    method: bool,
) -> str:
    """Why a call cannot be made, and the remedy."""
    parameters = list(signature.parameters.values())[1 if method else 0 :]
    named = [each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    keyword = [each.name for each in named if each.kind is not each.POSITIONAL_ONLY]
    known = list(dict.fromkeys([*keyword, *more]))
    open_ended = not more and any(each.kind is each.VAR_KEYWORD for each in parameters)
    unknown = [] if open_ended else [name for name in keywords if name not in known]
    if unknown:
        given = ", ".join(f"{name}={shown(keywords[name])}" for name in unknown)
        free = [name for name in known if name not in keywords]
        told = [f"there is no `{name}`; {meant(name, free)}" for name in unknown[:3]]
        first, *rest = told
        return " And ".join([f"`{called}({given})`: {first}", *rest])
    positional = [each for each in named if each.kind is not each.KEYWORD_ONLY]
    if len(args) > len(positional):
        names = [f"{each.name}=..." for each in named if each.kind is each.KEYWORD_ONLY]
        takes = ", ".join(each.name for each in positional) or "no argument"
        by_name = f"; name the others: {', '.join(names[:6])}" if names else ""
        return f"`{called}(...)` takes {takes} by position, and was given {len(args)} values{by_name}"
    twice = [each.name for each in positional[: len(args)] if each.name in keywords]
    if twice:
        return f"`{called}({twice[0]}={shown(keywords[twice[0]])})` is given twice: by position too; leave one out"
    needed = [each for each in named if each.default is each.empty]
    filled = {each.name for each in positional[: len(args)]} | keywords.keys()
    missing = [f"`{each.name}=`" for each in needed if each.name not in filled]
    takes = str(signature.replace(parameters=[each.replace(annotation=each.empty) for each in parameters],
                                  return_annotation=signature.empty))  # fmt: skip
    return f"`{called}(...)` needs {' and '.join(missing)}; it is called as `{called}{takes}`"
