"""The script that runs inside a sandbox: one process has the program, another its tests.

It is one file on purpose. `bubblewrap.py` mounts its bytecode alone into separate namespaces; an interpreter runs it
without site packages, and without the script's folder on its path. It cannot import pdr_dspy; a second file would be
one more to read at every start, and a module that it could import, the program could import, too.

The two processes share only one socket.
The program's process receives calls of its functions with their arguments; the tests, the expected values and the
comparison stay in the tests' process, which never runs any of the program's code. The processes exchange data only
(JSON with tags), so an object whose `__eq__` always returns True arrives as its content, or as a handle that equals
only itself. A program can therefore change its own results, and nothing else.

Sections: limits, modules made of texts, the program's objects as the tests see them, the link, values that cross it,
errors that cross it, printed output; then the program's process, the tests' process, what a case demands, comparison.

Roles: `solve LINK` runs the program, `test LINK` its tests (job on stdin, report on stdout), `script` runs a program
that reads stdin and writes stdout. LINK is the number of the socket's descriptor.
"""

from __future__ import annotations

import ast
import builtins
import io
import json
import math
import operator
import os
import resource
import struct
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CoroutineType, ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LONGEST = 16 * 2**20
"""The largest message in bytes."""
SHOWN = 2000
"""Characters of a value or an error that are reported."""
OPEN_FILES = 32
INTERPRETER = 96 * 2**20
"""Bytes of address space of an interpreter after its imports."""


def main() -> None:
    """Run the role that the command line names."""
    role, settings = sys.argv[1], json.loads(sys.argv[2])
    if role == "script":
        script(settings)
    link = Link(int(sys.argv[3]), trusted=role == "test")
    if role == "solve":
        solve(link, settings)
    else:
        report = os.dup(1)
        job = json.loads(sys.stdin.buffer.read())
        silence()
        confine(settings)
        Tests(link, job, report).run()
    os._exit(0)


# --------------------------------------------------------------------------------------------------------------- limits


def silence() -> None:
    """Redirect the standard descriptors to the null device."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)


def confine(settings: dict[str, Any]) -> None:
    """Drop root's remaining privileges and set this process's resource limits, which the kernel enforces."""
    if settings["uid"] is not None:
        for uid in (settings["uid"], 65534):
            try:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                break
            except OSError as error:
                if uid == 65534:
                    raise SystemExit(f"cannot give up root: {error}") from error
    for limit, value in (
        (resource.RLIMIT_AS, INTERPRETER + settings["memory"]),
        (resource.RLIMIT_CPU, math.ceil(settings["seconds"]) + 1),
        (resource.RLIMIT_FSIZE, settings["files"]),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_NPROC, settings["threads"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(limit, (value, value))


# ------------------------------------------------------------------------------------------------ modules made of texts


class Text(SourceFileLoader):
    """Loads a module from a text or its syntax tree; writes no bytecode."""

    def __init__(self, name: str, source: str | ast.AST) -> None:
        super().__init__(name, f"<{name}>")
        self.source = source

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self.source, self.path)  # type: ignore[arg-type]

    def get_source(self, fullname: str) -> str:
        return self.source if isinstance(self.source, str) else ""


def module(name: str) -> ModuleType:
    """An empty, importable module."""
    made = ModuleType(name)
    made.__spec__ = ModuleSpec(name, None)
    sys.modules[name] = made
    return made


UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)


def load(programs: list[str], entry: str | None, name: str) -> ModuleType:
    """Run the first of the texts that is Python and defines `entry`. If none does, raise the error of the first."""
    fault: BaseException | None = None
    for text in programs:
        loader = Text(name, text)
        try:
            names = loader.get_code(name).co_names
        except UNREADABLE as error:
            fault = fault or error
            continue
        if entry is None or entry.partition(".")[0] in names:
            made = module(name)
            loader.exec_module(made)
            return made
    raise fault or NameError(f"the program defines no `{entry}`")


def script(settings: dict[str, Any]) -> None:
    """Run a program as `python program.py` would, with its standard input and output and its exit status."""
    with open(int(sys.argv[3]), encoding="utf-8") as file:
        programs = json.load(file)
    confine(settings)
    load(programs, None, "__main__")
    raise SystemExit(0)


# ------------------------------------------------------------------------- the program's objects, as the tests see them


class Gone(Exception):
    """The other process has ended, or its messages are invalid."""


class Raised(Exception):
    """An exception of the program that is not in the standard library."""


class Remote:
    """A proxy of the program's object that is not data: the tests can use it, and read its data."""

    __slots__ = ("_handle", "_kind", "_link")

    def __init__(self, link: Link, handle: int, kind: str) -> None:
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_handle", handle)
        object.__setattr__(self, "_kind", kind)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and other._handle == self._handle

    def __hash__(self) -> int:
        return hash(("remote", self._handle))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._link.request("call", self, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return self._link.request("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._link.request("setattr", self, name, value)

    def __iter__(self) -> Any:
        walk = self._link.request("iter", self)
        while True:
            found = self._link.request("next", walk)
            if not found:
                return
            yield found[0]

    def __next__(self) -> Any:
        found = self._link.request("next", self)
        if not found:
            raise StopIteration
        return found[0]

    def __repr__(self) -> str:
        return str(self._link.request("repr", self))

    def __str__(self) -> str:
        return str(self._link.request("str", self))

    def __len__(self) -> int:
        return self._link.request("len", self)

    def __bool__(self) -> bool:
        return True  # otherwise every truth test would request its length

    def __getitem__(self, key: Any) -> Any:
        return self._link.request("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._link.request("setitem", self, key, value)


def _among_remotes(name: str) -> Callable[..., Any]:
    """Arithmetic of two objects of the program. It is not available with a value of the tests: `abs(result - 0.5) <
    1e-6` would let the program decide the comparison."""

    def forwarded(self: Remote, other: Any) -> Any:
        return self._link.request(name, self, other) if isinstance(other, Remote) else NotImplemented

    return forwarded


def _calling(target: Any, *args: Any, **kwargs: Any) -> Any:
    return target(*args, **kwargs)


def _next(target: Any) -> list[Any]:
    for value in target:
        return [value]
    return []


ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "matmul", "and_", "or_", "xor")
OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": _calling,
    "getattr": getattr,
    "setattr": setattr,
    "iter": iter,
    "next": _next,
    "repr": repr,
    "str": str,
    "len": len,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
}
for _name in ARITHMETIC:
    OPERATIONS[_name] = getattr(operator, _name)
    setattr(Remote, f"__{_name.strip('_')}__", _among_remotes(_name))


# ------------------------------------------------------------------------------------------------------------- the link


class Link:
    """One end of the socket: requests operations on the other process's objects, and serves its requests."""

    def __init__(self, connection: int, *, trusted: bool) -> None:
        self.connection = connection
        """The descriptor of a socket."""
        self.trusted = trusted
        """Whether this end runs the tests: the other end can only call the objects that it received."""
        self.shared: dict[int, Any] = {}
        self.numbers: dict[int, int] = {}

    def request(self, operation: str, target: Any, *args: Any, **kwargs: Any) -> Any:
        packed = [self.pack(value) for value in args]
        named = {name: self.pack(value) for name, value in kwargs.items()}
        self.send({"do": operation, "on": self.pack(target), "with": packed, "named": named})
        while True:
            reply = self.receive()
            if "do" in reply:
                self.serve(reply)
                continue
            sys.stdout.write(str(reply.get("printed", "")))
            if "raised" in reply:
                raise _exception(reply["raised"])
            self.take_back(args, reply.get("changed"))
            return self.unpack(reply.get("value"))

    def take_back(self, args: tuple[Any, ...], changed: Any) -> None:
        """Copy the program's changes of the arguments into them."""
        if not changed:
            return
        try:
            for place, value in changed.items():
                _replace(args[int(place)], self.unpack(value))
        except (AttributeError, ValueError, IndexError, TypeError) as error:
            raise Gone("the program sent an unreadable message") from error

    def serve(self, request: dict[str, Any]) -> None:
        """Carry out a request of the other end, and reply."""
        printed = Printed()
        outer, sys.stdout = sys.stdout, printed  # type: ignore[assignment]
        try:
            if self.trusted and request["do"] != "call":
                raise TypeError("a function of the tests can be called, and that is all")
            target = self.unpack(request["on"])
            args = [self.unpack(value) for value in request["with"]]
            kwargs = {name: self.unpack(value) for name, value in request["named"].items()}
            value = OPERATIONS[request["do"]](target, *args, **kwargs)
            answer: dict[str, Any] = {"value": self.pack(value)}
            changed = {} if self.trusted else self.changes(request["with"], args)
            if changed:
                answer["changed"] = changed
        except Gone:
            raise
        except BaseException as error:
            if self.trusted and not isinstance(error, Exception):
                raise
            answer = {"raised": _described(error, crossing=True)}
        finally:
            sys.stdout = outer
        if not self.trusted and printed.text:
            answer["printed"] = printed.text
        try:
            self.send(answer)
        except UNREADABLE as error:
            self.send({"raised": _described(error)})

    def changes(self, before: list[Any], args: list[Any]) -> dict[str, Any]:
        """The arguments that the call changed in place, such as a sorted list."""
        now = {str(place): self.pack(value) for place, value in enumerate(args) if isinstance(value, CHANGEABLE)}
        return {place: value for place, value in now.items() if value != before[int(place)]}

    def send(self, message: dict[str, Any]) -> None:
        body = json.dumps(message).encode()
        if len(body) > LONGEST:
            raise ValueError(f"a value of {len(body):,} bytes is too large to be handed over")
        try:
            data = memoryview(struct.pack(">I", len(body)) + body)
            while data:
                data = data[os.write(self.connection, data) :]
        except OSError as error:
            raise Gone("the program ended") from error

    def receive(self) -> dict[str, Any]:
        (length,) = struct.unpack(">I", self.exactly(4))
        if length > LONGEST:
            raise Gone("the program sent a message that is too long")
        try:
            message = json.loads(self.exactly(length))
        except UNREADABLE as error:
            raise Gone("the program sent an unreadable message") from error
        if not isinstance(message, dict):
            raise Gone("the program sent an unreadable message")
        return message

    def exactly(self, count: int) -> bytes:
        pieces = []
        while count:
            try:
                piece = os.read(self.connection, min(count, 2**20))
            except OSError as error:
                raise Gone("the program ended") from error
            if not piece:
                raise Gone("the program ended")
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    # A packed value is itself (None, bool, float, str, small int, list), or one tag with its content.

    def pack(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind is bool or kind is float or kind is str:
            return value
        if kind is int:
            return value if -(2**63) <= value < 2**63 else {"int": hex(value)}
        if kind is list:
            return [self.pack(item) for item in value]
        if kind is Remote:
            return {"yours": value._handle}
        if kind is dict or (kind.__name__ in ("OrderedDict", "Counter", "defaultdict") and isinstance(value, dict)):
            tag = "dict" if kind is dict else kind.__name__
            return {tag: [[self.pack(key), self.pack(item)] for key, item in dict.items(value)]}
        if kind in COLLECTIONS or (kind.__module__, kind.__name__) == ("collections", "deque"):
            return {kind.__name__: [self.pack(item) for item in value]}
        if kind is bytes or kind is bytearray:
            return {kind.__name__: value.hex()}
        if kind is complex:
            return {"complex": [value.real, value.imag]}
        if kind is range:
            return {"range": [self.pack(part) for part in (value.start, value.stop, value.step)]}
        if value is Ellipsis:
            return {"Ellipsis": None}
        if (kind.__module__, kind.__name__) in NUMBERS:
            return {kind.__name__: str(value)}
        if kind.__module__ == "datetime" and kind.__name__ in MOMENTS:
            return {kind.__name__: MOMENTS[kind.__name__][0](value)}
        for base, plain in BASES:
            if isinstance(value, base):
                return self.pack(plain(value))
        return self.handle(value, kind)

    def handle(self, value: Any, kind: type) -> dict[str, Any]:
        if self.trusted and not callable(value):
            raise TypeError(f"the tests hand the program a {kind.__name__}, which cannot leave their process")
        number = self.numbers.setdefault(id(value), len(self.numbers))
        self.shared[number] = value
        return {"mine": [number, kind.__name__[:80]]}

    def unpack(self, packed: Any) -> Any:
        if packed is None or isinstance(packed, (bool, int, float, str)):
            return packed
        if isinstance(packed, list):
            return [self.unpack(item) for item in packed]
        try:
            ((tag, body),) = packed.items()
            if tag == "mine":
                return Remote(self, int(body[0]), str(body[1]))
            if tag == "yours":
                return self.shared[body]
            return self.rebuilt(tag, body)
        except (KeyError, AttributeError, TypeError, ValueError, IndexError) as error:
            raise Gone("the program sent an unreadable message") from error

    def rebuilt(self, tag: str, body: Any) -> Any:
        if tag in ("dict", "OrderedDict", "Counter", "defaultdict"):
            pairs = [(self.unpack(key), self.unpack(value)) for key, value in body]
            if tag in ("dict", "defaultdict"):  # the default factory cannot be sent
                return dict(pairs)
            made = getattr(_imported("collections"), tag)()
            for key, value in pairs:
                made[key] = value
            return made
        if tag in ("tuple", "set", "frozenset", "deque"):
            kind = getattr(builtins, tag, None) or _imported("collections").deque
            return kind(self.unpack(item) for item in body)
        if tag in ("bytes", "bytearray"):
            return getattr(builtins, tag).fromhex(body)
        if tag == "int":
            return int(body, 16)
        if tag == "complex":
            return complex(*body)
        if tag == "range":
            return range(*(self.unpack(part) for part in body))
        if tag == "Ellipsis":
            return ...
        for (home, name), read in NUMBERS.items():
            if tag == name:
                return read(getattr(_imported(home), name), body)
        return MOMENTS[tag][1](getattr(_imported("datetime"), tag), body)


# ------------------------------------------------------------------------------------------- values that cross the link


CHANGEABLE = (list, dict, set, bytearray)
COLLECTIONS = {tuple, set, frozenset}
BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, lambda value: int.__add__(value, 0)),
    (float, lambda value: float.__add__(value, 0.0)),
    (complex, lambda value: complex.__add__(value, 0)),
    (str, lambda value: str.__getitem__(value, slice(None)) if type(value) is str else "".join(str.__iter__(value))),
    (bytes, lambda value: bytes.join(b"", [value]) if type(value) is bytes else bytes(memoryview(value))),
    (list, lambda value: [*list.__iter__(value)]),
    (tuple, lambda value: (*tuple.__iter__(value),)),
    (dict, lambda value: dict(dict.items(value))),
    (set, lambda value: {*set.__iter__(value)}),
    (frozenset, lambda value: frozenset(frozenset.__iter__(value))),
)
NUMBERS: dict[tuple[str, str], Callable[[Any, str], Any]] = {
    ("decimal", "Decimal"): lambda kind, text: kind(text[:5000]),
    ("fractions", "Fraction"): lambda kind, text: kind(text[:5000]) if "e" not in text.lower() else None,
}
MOMENTS: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    "date": (lambda value: value.isoformat(), lambda kind, text: kind.fromisoformat(text)),
    "time": (lambda value: value.isoformat(), lambda kind, text: kind.fromisoformat(text)),
    "datetime": (lambda value: value.isoformat(), lambda kind, text: kind.fromisoformat(text)),
    "timedelta": (
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda kind, parts: kind(*parts),
    ),
}


def _imported(name: str) -> ModuleType:
    if name not in sys.modules:
        from importlib import import_module

        return import_module(name)
    return sys.modules[name]


def _replace(argument: Any, after: Any) -> None:
    """Copy the program's changes into an argument of the tests."""
    if type(argument) is not type(after):
        raise Gone("the program changed the type of an argument")
    if isinstance(argument, (list, bytearray)):
        argument[:] = after
    elif isinstance(argument, (dict, set)):
        argument.clear()
        argument.update(after)


# ------------------------------------------------------------------------------------------- errors that cross the link


def _described(error: BaseException, *, crossing: bool = False) -> list[Any]:
    """The names of an exception's built-in bases, and its text. A KeyError is reduced to its key, since a rebuilt one
    would quote its text twice."""
    try:
        quoted = crossing and isinstance(error, KeyError) and len(error.args) == 1
        text = str(error.args[0] if quoted else error)[:SHOWN]
    except BaseException:
        text = ""
    return [[str(kind.__name__) for kind in type(error).__mro__ if kind.__module__ == "builtins"][:8], text]


def _exception(raised: Any) -> Exception:
    """The exception of the standard library that is closest to the program's."""
    try:
        names, text = raised
        for name in names:
            kind = getattr(builtins, str(name), None)
            # StopIteration would end a loop over `map(candidate, ...)` before its first assertion.
            if isinstance(kind, type) and issubclass(kind, Exception) and kind not in (Exception, *STOPPING):
                made = kind.__new__(kind, str(text))  # some constructors need more than a text
                made.args = (str(text),)
                return made
        return Raised(f"{names[0]}: {text}" if names[0] != "Exception" else str(text))
    except Exception as error:
        raise Gone("the program sent an unreadable message") from error


STOPPING = (StopIteration, StopAsyncIteration)


# ------------------------------------------------------------------------------------------------------- printed output


class Printed(io.TextIOBase):
    """Keeps the beginning of the printed output."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.room = 4 * SHOWN

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.room > 0:
            self.pieces.append(text[: self.room])
            self.room -= len(text)
        return len(text)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


# ------------------------------------------------------------------------------------------------ the program's process


def solve(link: Link, settings: dict[str, Any]) -> None:
    """Run the program once, then serve requests of the tests."""
    confine(settings)
    link.send({"up": True})
    order = link.receive()
    outer, sys.stdout = sys.stdout, Printed()  # type: ignore[assignment]
    try:
        made = load(order["programs"], order["entry"], "solution")
    except BaseException as error:
        kind, text = type(error).__name__[:80], _described(error)[1]
        link.send({"failed": f"{kind}: {text}" if text else kind})
        return
    finally:
        sys.stdout = outer
    link.send({"names": [name for name in made.__dict__ if isinstance(name, str)]})
    link.shared[-1] = made
    while True:
        link.serve(link.receive())


# --------------------------------------------------------------------------------------------------- the tests' process


class Tests:
    """The tests of one program: runs them one after the other, and reports each result."""

    def __init__(self, link: Link, job: dict[str, Any], report: int) -> None:
        self.link = link
        self.job = job
        self.report = report
        self.space = module("tests")
        self.names = self.space.__dict__

    def write_report(self, **fields: Any) -> None:
        data = memoryview(json.dumps(fields).encode() + b"\n")
        while data:
            data = data[os.write(self.report, data) :]

    def run(self) -> None:
        try:
            self.link.receive()  # the other process has started
            self.write_report(started=True)
            trees = self.read()
            if trees is None:
                return
            self.link.send({"programs": self.job["programs"], "entry": self.job["entry"]})
            reply = self.link.receive()
            if "failed" in reply or not isinstance(reply.get("names"), list):
                self.write_report(failed=str(reply.get("failed"))[:SHOWN])
                return
            self.prepare(trees, {str(name) for name in reply["names"]})
        except Exception as error:
            self.write_report(failed=str(error)[:SHOWN])
            return
        for place, (case, tree) in enumerate(zip(self.job["cases"], trees, strict=True)):
            try:
                result = self.verdict(case, tree)
            except Gone as error:
                self.write_report(case=place, passed=False, error=str(error))
                return
            self.write_report(case=place, **result)
        self.write_report(done=True)

    def read(self) -> list[ast.Module] | None:
        """The syntax trees of the cases; tests that are not Python are reported as broken."""
        try:
            trees = [ast.parse(case["source"]) for case in self.job["cases"]]
            setup = [ast.parse(text) for text in self.job["setup"]]
        except UNREADABLE as error:
            self.write_report(broken=f"{type(error).__name__}: {error}"[:SHOWN])
            return None
        self.setup = setup
        return trees

    def prepare(self, trees: list[ast.Module], defined: set[str]) -> None:
        """Set the names of the tests: those that the task defines, and those of the program that the tests use besides.

        A complete function of the task takes precedence over the program's; an unfinished function, and the task's
        classes, are taken from the program. `defined` are the names that the program defines.
        """
        for text in self.job["given"]:
            try:
                tree = ast.parse(text)
                Text("tests", tree).exec_module(self.space)
            except Exception:  # the task is prose, or incomplete code
                continue
            for node in tree.body:
                if isinstance(node, ast.ClassDef) or (isinstance(node, FUNCTIONS) and _open(node)):
                    self.names.pop(node.name, None)
        nodes = [node for tree in (*trees, *self.setup) for node in ast.walk(tree)]
        used = {node.id for node in nodes if isinstance(node, ast.Name)}
        first, _, method = (self.job["entry"] or "").partition(".")
        program = Remote(self.link, -1, "module")
        for name in sorted(used - set(self.names) - set(vars(builtins))):
            standard = None if name == first else _standard(name)
            if standard is not None:
                self.names[name] = standard
            elif name in defined:
                self.names[name] = getattr(program, name)
        if first:
            if first not in defined:
                raise Gone(f"the program defines no `{first}`")
            self.names[first] = getattr(program, first)
            if "candidate" not in self.names:
                found = self.names[first]
                self.names["candidate"] = getattr(found(), method) if method else found
        for tree in self.setup:
            try:
                Text("tests", tree).exec_module(self.space)
            except Gone:
                raise
            except Exception as error:
                raise Gone(f"the setup of the tests raises {type(error).__name__}: {error}") from error

    def verdict(self, case: dict[str, Any], tree: ast.Module) -> dict[str, Any]:
        """Whether a case passes; for a failure with the actual value."""
        printed = sys.stdout = Printed()  # type: ignore[assignment]
        want = case["want"]
        try:
            if want is None and (sides := _equation(tree)):
                got, expected = (self.value(side) for side in sides)
                passed = bool(got == expected)
                return {"passed": passed, "got": _shown(got), "want": _shown(expected)}
            if want is None:
                Text("tests", tree).exec_module(self.space)
                self.called(tree)
                return {"passed": True}
            got = self.value(tree)
            text = printed.text + ("" if got is None else _shown(got, whole=True))
            return {"passed": _as_wanted(got, text, printed.text, want), "got": text[:SHOWN], "want": want[:SHOWN]}
        except Gone:
            raise
        except BaseException as error:
            text = _described(error)[1]
            shown = f"{type(error).__name__}: {text}" if text else type(error).__name__
            if isinstance(error, Raised):
                shown = text
            if want is not None and want.startswith("Traceback (most recent call last):"):
                last = want.rstrip().rpartition("\n")[2].strip()
                if shown == last or (":" not in last and shown.partition(":")[0] == last):
                    return {"passed": True}
            if isinstance(error, SyntaxError) and error.filename == "<tests>":
                return {"passed": False, "broken": shown[:SHOWN]}
            return {"passed": False, "error": shown[:SHOWN], "line": _line(error, case["source"])}

    def value(self, tree: ast.Module) -> Any:
        """Run statements; returns the value of the last one if it is an expression, else None."""
        *_, last = tree.body
        if not isinstance(last, ast.Expr):
            Text("tests", tree).exec_module(self.space)
            return None
        assign = ast.Assign(targets=[ast.Name(id="__shown__", ctx=ast.Store())], value=last.value)
        moved = ast.Module(body=[*tree.body[:-1], ast.copy_location(assign, last)], type_ignores=[])
        Text("tests", ast.fix_missing_locations(moved)).exec_module(self.space)
        return self.names.pop("__shown__")

    def called(self, tree: ast.Module) -> None:
        """Call the tests that a case defines without calling: `check(candidate)`, `test_...`, unittest's cases."""
        defined = [node.name for node in tree.body if isinstance(node, (*FUNCTIONS, ast.ClassDef))]
        if "check" in defined and not _calls(tree, "check"):
            if "candidate" not in self.names:
                raise LookupError("the tests define `check` for a function, and none is named")
            _finish(self.names["check"](self.names["candidate"]))
            return
        for name in defined:
            made = self.names.get(name)
            if name.startswith("test") and not isinstance(made, type) and callable(made) and not _calls(tree, name):
                _finish(made())
            elif isinstance(made, type) and "unittest" in sys.modules:
                unittest = sys.modules["unittest"]
                if issubclass(made, unittest.TestCase):
                    _unittest(unittest, made)


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
STANDARD = ("typing", "collections", "itertools", "functools", "math", "heapq", "copy", "datetime", "re", "string")


def _standard(name: str) -> Any:
    """The standard library's object for a name that tests use without importing it; None without one.

    The program may have imported it, too, but the tests must not take it from the program.
    """
    from importlib import import_module

    if name in sys.stdlib_module_names:
        return import_module(name)
    for home in STANDARD:
        public = import_module(home)
        if name in getattr(public, "__all__", vars(public)) and not name.startswith("_"):
            return getattr(public, name)
    return None


def _finish(result: Any) -> None:
    """Run an asynchronous test to its end; without this it would pass unseen."""
    if isinstance(result, CoroutineType):
        try:
            result.send(None)
        except StopIteration:
            return
        raise RuntimeError("an asynchronous test waits for something, which no test can here")


def _unittest(unittest: Any, made: type) -> None:
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(made).run(result)
    wrong = [*result.errors, *result.failures]
    if wrong:
        case, report = wrong[0]
        raise AssertionError(f"{case.id().rpartition('.')[2]}: {report.strip().rpartition(chr(10))[2]}")


# -------------------------------------------------------------------------------------------------- what a case demands


def _open(node: Any) -> bool:
    """Whether a function is unfinished: it has no body yet."""
    body = list(node.body)
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    return all(
        isinstance(statement, (ast.Pass, ast.Raise))
        or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        for statement in body
    )


def _equation(tree: ast.Module) -> tuple[ast.Module, ast.Module] | None:
    """Both sides of `assert a == b`."""
    match tree.body:
        case [ast.Assert(test=ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]))]:
            sides = [
                ast.Module(body=[ast.copy_location(ast.Expr(side), side)], type_ignores=[]) for side in (left, right)
            ]
            return sides[0], sides[1]
    return None


def _calls(tree: ast.Module, name: str) -> bool:
    """Whether a case calls a function at its top level."""
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
        for statement in tree.body
        if not isinstance(statement, (*FUNCTIONS, ast.ClassDef))
        for node in ast.walk(statement)
    )


def _line(error: BaseException, source: str) -> str:
    """The line of the tests that raised the error."""
    found, trace = "", error.__traceback__
    lines = source.splitlines()
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<tests>" and 0 < trace.tb_lineno <= len(lines):
            found = lines[trace.tb_lineno - 1].strip()
        trace = trace.tb_next
    return found[:SHOWN]


# ----------------------------------------------------------------------------------------------------------- comparison


def _shown(value: Any, *, whole: bool = False) -> str:
    try:
        return repr(value) if whole else repr(value)[:SHOWN]
    except Gone:
        raise
    except Exception as error:
        return f"<{type(value).__name__} without a text: {type(error).__name__}>"


def _as_wanted(value: Any, text: str, printed: str, want: str) -> bool:
    """Whether an example's output equals its text, literally or as the same value in another notation."""
    want = want.strip()
    if text.strip() == want or " ".join(text.split()) == " ".join(want.split()):
        return True
    if printed:
        return False
    try:
        expected = ast.literal_eval(want)
    except (*UNREADABLE, TypeError):
        return False
    return _same(value, expected)


def _same(value: Any, expected: Any) -> bool:
    """Whether two values are equal, floats up to rounding; a list is not a tuple, and True is not 1."""
    if isinstance(expected, float) or isinstance(value, float):
        plain = (int, float)
        return (
            isinstance(value, plain)
            and isinstance(expected, plain)
            and not isinstance(value, bool)
            and not isinstance(expected, bool)
            and (value == expected or math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-12))
        )
    if isinstance(expected, bool) or isinstance(value, bool):
        return value is expected
    if isinstance(expected, (list, tuple)):
        return (
            type(value) is type(expected)
            and len(value) == len(expected)
            and all(_same(one, other) for one, other in zip(value, expected, strict=True))
        )
    if isinstance(expected, dict):
        return (
            isinstance(value, dict)
            and set(value) == set(expected)
            and all(_same(value[key], expected[key]) for key in expected)
        )
    return bool(value == expected)


if __name__ == "__main__":
    main()
