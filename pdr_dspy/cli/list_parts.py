"""`pdr distillers`: the parts that are known by name here, the user's own among them."""

from __future__ import annotations

from pdr_dspy.cli.display import Display
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.distillers import DISTILLERS
from pdr_dspy.runtime.registry import Registry


def distillers(display: Display) -> None:
    """All distillers: the library's, and those of installed packages."""
    rows = []
    for name in DISTILLERS.names():
        try:
            part = DISTILLERS.find(name)
        except ConfigError as error:  # another package's fault; the list goes on
            rows.append([name, str(error), "", _home(DISTILLERS, name)])
            continue
        calls = "none" if part.role is None else f"{part.role}"
        rows.append([name, part.description, calls, _home(DISTILLERS, name)])
    display.table("", ("distiller", "what the next round reads", "calls", "from"), rows, text=4)


def _home(registry: Registry, name: str) -> str:
    return registry.package(name) or registry.origin(name) or "pdr-dspy"
