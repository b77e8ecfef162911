"""Registry: parts by name, built in, registered by a decorator, or installed as an entry point of another package.

Names are looked up in this order: built-in parts, parts registered in this process, entry points of installed packages.
Entry points are read when a name is not found otherwise, and imported on first use: nothing is scanned at import. A
saved program may give the origin of a missing part as `module:attribute`; `Registry.trust` imports it, and is called
only if the user declares the file trusted.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from pdr_dspy.errors import ConfigError


class Named(Protocol):
    """A part with a name."""

    @property
    def name(self) -> str: ...


T = TypeVar("T")
N = TypeVar("N", bound=Named)

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.\-]*")
_ORIGIN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


class _Registered(NamedTuple):
    part: Any
    origin: str | None
    package: str | None = None
    looked_up: bool = False
    """Whether `package` has been looked up."""


class Registry(Generic[T]):
    """The parts of one kind, such as all distillers.

    Args:
        kind: the kind in messages, such as "distiller".
        group: the entry point group of the kind, such as "pdr_dspy.distillers".
        built_in: the built-in parts by name.
        check: called with a name and the object that was imported for it; returns the part, and raises ConfigError for
            an object of another kind.
        hint: a sentence for messages on how to register a part.
    """

    def __init__(
        self,
        kind: str,
        *,
        group: str,
        built_in: Mapping[str, T],
        check: Callable[[str, Any], T],
        hint: str,
    ) -> None:
        self.kind = kind
        self.group = group
        self.hint = hint
        self._check = check
        self._built_in = dict(built_in)
        self._added: dict[str, _Registered] = {}

    def add(self, name: str, part: T, *, origin: str | None = None) -> T:
        """Register a part. The same part, or a redefinition with the same origin, may be registered again.

        Args:
            name: letters, digits, `_`, `-` and `.`.
            part: the part.
            origin: where it is defined, as `origin_of` returns it; None if unknown.

        Returns:
            The part.

        Raises ConfigError for an invalid name and for a name that is taken.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r} cannot be the name of a {self.kind}: use letters, digits, `_`, `-` and `.`, and begin with "
                "a letter"
            )
        if name in self._built_in:
            raise ConfigError(f"the {self.kind} {name!r} is built in; choose another name")
        taken = self._added.get(name)
        if taken is not None and taken.part is not part and (origin is None or taken.origin != origin):
            raise ConfigError(
                f"the {self.kind} {name!r} is already registered, by {taken.origin or 'this process'}; choose another "
                "name"
            )
        self._added[name] = _Registered(part, origin)
        return part

    def remove(self, name: str) -> None:
        """Unregister a part, for tests; does nothing for a name that is not registered."""
        self._added.pop(name, None)

    def find(self, name: str) -> T:
        """The part of this name; an entry point is imported on first use.

        Raises ConfigError, with the known names, for an unknown name, and for an entry point that cannot be imported
        or is of another kind.
        """
        if name in self._built_in:
            return self._built_in[name]
        if name not in self._added:
            entry = self._entry(name)
            if entry is None:
                raise ConfigError(self.unknown(name))
            origin, _, _ = entry.value.partition("[")  # an entry point may list extras of its package
            part = self._imported(name, origin.strip(), f"the entry point {name!r} of {_package(entry)}")
            self._added[name] = _Registered(part, entry.value, None if entry.dist is None else entry.dist.name)
        return self._added[name].part

    def trust(self, name: str, origin: str) -> T:
        """Import `origin`, "module:attribute", and register the part under this name.

        Importing runs the module's code: call it only with an origin that the user trusts. Raises ConfigError for an
        origin that is malformed, cannot be imported, or is of another kind.
        """
        if origin.partition(":")[0] == "__main__":  # a script that is not running
            raise ConfigError(self.unknown(name, origin))
        part = self._imported(name, origin, f"`{origin}`, the origin of the {self.kind} {name!r},")
        return self._added[name].part if name in self._added else self.add(name, part, origin=origin)

    def names(self) -> tuple[str, ...]:
        """All names that `find` knows: built-in parts first, then the others in alphabetical order."""
        others = {*self._added, *(entry.name for entry in entry_points(group=self.group))}
        return (*self._built_in, *sorted(others - set(self._built_in)))

    def __contains__(self, name: object) -> bool:
        """Whether `find` knows the name; nothing is imported."""
        if not isinstance(name, str):
            return False
        return name in self._built_in or name in self._added or self._entry(name) is not None

    def origin(self, name: str) -> str | None:
        """Where a part is defined, "module:attribute"; None for built-in parts and if unknown."""
        if name in self._built_in:
            return None
        if name in self._added:
            return self._added[name].origin
        entry = self._entry(name)
        return None if entry is None else entry.value

    def package(self, name: str) -> str | None:
        """The name of the installed package that provides a part as an entry point; None for other parts."""
        known = self._added.get(name)
        if name in self._built_in or (known is not None and (known.package is not None or known.looked_up)):
            return None if known is None else known.package
        entry = self._entry(name)
        package = None
        if entry is not None and entry.dist is not None and (known is None or known.origin == entry.value):
            package = entry.dist.name
        if known is not None:
            self._added[name] = known._replace(package=package, looked_up=True)
        return package

    def unknown(self, name: object, origin: str | None = None, package: str | None = None) -> str:
        """A message about an unknown name: the known names, and how to make the part available.

        Args:
            name: the name.
            origin: where the part was defined according to a saved file, "module:attribute".
            package: the package that provided it according to a saved file.
        """
        known = self.names()
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.75)
        meant = f"; did you mean {near[0]!r}?" if near else "."
        message = f"there is no {self.kind} {name!r} here{meant} Known: {', '.join(known) or 'none'}. "
        if origin is None:
            return f"{message}{self.hint}"
        module = origin.partition(":")[0]
        if module == "__main__":
            return f"{message}It was defined in a script or notebook (`{origin}`): run its definition first"
        install = package or module.partition(".")[0]
        return f"{message}It was defined as `{origin}`: install `{install}`, or import `{module}` first"

    def _entry(self, name: str) -> EntryPoint | None:
        found = {entry.value: entry for entry in entry_points(group=self.group, name=name)}
        if len(found) > 1:
            packages = " and ".join(_package(entry) for entry in found.values())
            raise ConfigError(f"the {self.kind} {name!r} is an entry point of {packages}; uninstall one of them")
        return next(iter(found.values()), None)

    def _imported(self, name: str, origin: str, what: str) -> T:
        if not _ORIGIN.fullmatch(origin):
            raise ConfigError(f"{what} is not of the form `module:attribute`")
        module, _, attribute = origin.partition(":")
        try:
            found: Any = import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
        except Exception as error:  # an import runs foreign code, which may raise anything
            absent = error.name if isinstance(error, ModuleNotFoundError) else None
            own = absent in _packages_of(module)
            remedy = f"; install `{absent}`, or set PYTHONPATH to the folder that it is in" if own else ""
            raise ConfigError(f"{what} cannot be imported: {type(error).__name__}: {error}{remedy}") from error
        try:
            return self._check(name, found)
        except ConfigError as error:
            raise ConfigError(f"{what} is no {self.kind}: {error}") from None


def instance_of(kind: type[N], made_with: str) -> Callable[[str, Any], N]:
    """The `check` of a registry whose parts are of one class and have a `name`.

    Args:
        kind: the class of the parts.
        made_with: the decorator that makes one, with `{}` for the name as code.
    """

    def check(name: str, found: Any) -> N:
        if not isinstance(found, kind):
            made = made_with.format(repr(name))
            raise ConfigError(f"it is of the type {type(found).__name__}; make one with `{made}`")
        if found.name != name:
            raise ConfigError(f"it is the {kind.__name__.lower()} {found.name!r}")
        return found

    return check


def origin_of(part: Any) -> str | None:
    """Where a function or class is defined, as "module:attribute"; None for an object that cannot be imported."""
    module, name = getattr(part, "__module__", None), getattr(part, "__qualname__", None)
    return f"{module}:{name}" if module and name and "<" not in name else None


def _packages_of(module: str) -> list[str]:
    """A module's dotted name, and those of the packages that it is in."""
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _package(entry: EntryPoint) -> str:
    return "an unknown package" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
