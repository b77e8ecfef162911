"""`pdr distillers`, `pdr verifiers`, `pdr checks` and `pdr axes`: the registered parts, including users' own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pdr_dspy.cli.display import Display
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.distillers import DISTILLERS, Distiller
from pdr_dspy.runtime.registry import Registry
from pdr_dspy.search import AXES, Axis
from pdr_dspy.verifiers import VERIFIERS
from pdr_dspy.verifiers.checks import CHECKS
from pdr_dspy.verifiers.registry import settings_of


def distillers(display: Display) -> None:
    """All distillers: the library's, and those of installed packages."""

    def about(name: str, part: Distiller) -> list[str]:
        calls = "no calls" if part.role is None else f"calls the {part.role} predictor"
        uses = "" if not part.uses_k else ", picks k"
        kind = ", for analyses" if part.needs_gold else ", for chains of single drafts" if part.chain else ""
        return [part.description, f"{calls}{uses}{kind}"]

    _list(DISTILLERS, about, display)


def verifiers(display: Display) -> None:
    """All verifiers: the library's, and those of installed packages."""

    def about(name: str, part: Any) -> list[str]:
        text = " ".join((part.__doc__ or "").split()).partition(". ")[0].rstrip(".")
        return [text, f"settings: {', '.join(settings_of(name))}"]

    _list(VERIFIERS, about, display)


def axes(display: Display) -> None:
    """All axes of a search: the library's, and those of installed packages."""

    def about(name: str, part: Axis) -> list[str]:
        values = ", ".join(str(part.none or "as it is") if value is None else str(value) for value in part.default)
        return [part.description, f"applies: {part.when}", f"default candidates: {values}"]

    _list(AXES, about, display)


def checks(display: Display) -> None:
    """All registered checks, including those of installed packages."""

    def about(name: str, part: Any) -> list[str]:
        text = " ".join((type(part).__doc__ or "").split()).partition(". ")[0].rstrip(".")
        return [f"{type(part).__name__}: {text}"]

    if not CHECKS.names():
        display.show("No check is registered here; see `pdr_dspy.verifiers.checks.register_check`.")
    _list(CHECKS, about, display)


def _list(registry: Registry, about: Callable[[str, Any], list[str]], display: Display) -> None:
    for name in registry.names():
        home = registry.package(name) or registry.origin(name)
        try:
            lines = about(name, registry.find(name))
        except ConfigError as error:  # an error in another package; the list continues
            lines = [str(error)]
        display.show(f"{name}{f'  (from {home})' if home else ''}")
        for line in filter(None, lines):
            display.show(f"    {line}")
