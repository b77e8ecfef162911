"""The sandbox: programs run, hostile ones harm nothing and pass nothing, and the next one does not wait for them."""

# ruff: noqa: E501  (tables of programs)

from __future__ import annotations

import asyncio
import importlib.util
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pdr_dspy.errors import ConfigError, NoSandbox
from pdr_dspy.verifiers import sandbox
from pdr_dspy.verifiers.sandbox import Case, Isolation, Job, Limits, Outcome, Stdin, TestsBroken, bubblewrap, seccomp

LIMITS = Limits(seconds=2.0, memory=128)
CHECK = "def check(candidate):\n    assert candidate(2) == 731\n    assert candidate(5) == 418\n"
"""Tests whose values no program can guess."""
RIGHT = "def f(x):\n    return {2: 731, 5: 418}[x]\n"
WHY = bubblewrap.missing()
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("sandbox")]
isolated = pytest.mark.skipif(
    WHY is not None and not os.environ.get("CI"), reason=f"nothing can be isolated here: {WHY}"
)


def job(program: str | Sequence[str], *cases: str | Case, entry: str | None = "f", given: str = "") -> Job:
    texts = (program,) if isinstance(program, str) else tuple(program)
    made = tuple(Case(case) if isinstance(case, str) else case for case in cases or (CHECK,))
    return Job(texts, made, entry, (given,) if given else ())


def run(what: Job, limits: Limits = LIMITS, isolation: Isolation = "bubblewrap") -> Outcome:
    return asyncio.run(sandbox.run(what, limits, isolation))


def processes() -> set[int]:
    """Sandboxed processes that run on this machine."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if b"/inside.py" in (entry / "cmdline").read_bytes():
                    found.add(int(entry.name))
            except OSError:
                continue
    return found


def all_gone() -> bool:
    """Whether no sandboxed process is left; the kernel may take a moment to end one that was killed."""
    deadline = time.monotonic() + 5
    while processes():
        if time.monotonic() > deadline:
            return False
    return True


HOSTILE = {
    "fork bomb": "import os\ndef f(x):\n    while True:\n        os.fork()",
    "fork bomb at import": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "subprocess": "import subprocess\ndef f(x): return int(subprocess.check_output(['echo', '731']))",
    "multiprocessing": "import multiprocessing as m\ndef f(x):\n    m.Process(target=print).start()\n    return 731",
    "thread bomb": "import threading\ndef f(x):\n    while True: threading.Thread(target=threading.Event().wait).start()",
    "memory, a list": "def f(x):\n    a = []\n    while True: a.append('x' * 10**6)",
    "memory, at once": "def f(x): return len(bytearray(10**11))",
    "memory, a power": "def f(x): return 9**9**9",
    "endless loop": "def f(x):\n    while True: pass",
    "endless loop at import": "while True: pass",
    "sleep": "import time\ndef f(x): time.sleep(1000)",
    "endless recursion in C": "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)",
    "endless output": "def f(x):\n    while True: print('x' * 10**6)",
    "endless raw output": "import os\ndef f(x):\n    while True:\n        os.write(1, b'x' * 10**6); os.write(2, b'x' * 10**6)",
    "1 GB of file": "def f(x):\n    with open('/tmp/a', 'wb') as file:\n        while True: file.write(b'x' * 10**6)",
    "many files": "def f(x):\n    n = 0\n    while True:\n        n += 1\n        open(f'/tmp/{n}', 'w').write('x' * 10**6)",
    "write beside": "def f(x):\n    open('/inside.py', 'w').write('')\n    return 731",
    "remount": "import ctypes\ndef f(x): return 731 if ctypes.CDLL(None).mount(b'', b'/', b'', 0, 0) == 0 else 0",
    "/etc/passwd": "def f(x): return 731 if 'root' in open('/etc/passwd').read() else 418",
    "a link to /etc/passwd": "import os\ndef f(x):\n    os.symlink('/etc/passwd', '/tmp/l')\n    return open('/tmp/l').read()",
    "a socket": "import socket\ndef f(x): return socket.create_connection(('127.0.0.1', 80))",
    "a Unix socket": "import socket\ndef f(x): return socket.socket(socket.AF_UNIX).connect('/var/run/docker.sock')",
    "os._exit(0)": "import os\ndef f(x): os._exit(0)",
    "os._exit(0) at import": "import os\nos._exit(0)",
    "SystemExit": "def f(x): raise SystemExit(0)",
    "sys.exit at import": "import sys\nsys.exit(0)",
    "KeyboardInterrupt": "def f(x): raise KeyboardInterrupt",
    "BaseException": "class B(BaseException): pass\ndef f(x): raise B()",
    "StopIteration": "def f(x): raise StopIteration",
    "kill the parent": "import os, signal\ndef f(x):\n    os.kill(os.getppid(), signal.SIGKILL)\n    return 0",
    "kill everybody": "import os, signal\ndef f(x):\n    os.kill(-1, signal.SIGKILL)\n    return 0",
    "ptrace": "import ctypes\ndef f(x): return ctypes.CDLL(None).ptrace(16, 1, 0, 0)",
    "equals everything": "class E:\n    def __eq__(self, o): return True\n    __ne__ = lambda s, o: False\ndef f(x): return E()",
    "an int that equals everything": "class E(int):\n    def __eq__(self, o): return True\n    __hash__ = int.__hash__\ndef f(x): return E(0)",
    "a list that equals everything": "class E(list):\n    def __eq__(self, o): return True\ndef f(x): return E()",
    "a str that equals everything": "class E(str):\n    def __eq__(self, o): return True\n    __hash__ = str.__hash__\ndef f(x): return E()",
    "builtins": "import builtins\nbuiltins.AssertionError = ValueError\nbuiltins.isinstance = lambda *a: True\ndef f(x): return 0",
    "sys.modules": "import sys\nclass M: __getattr__ = lambda s, n: (lambda *a, **k: True)\nfor m in list(sys.modules): sys.modules[m] = M()\ndef f(x): return 0",
    "atexit": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef f(x): return 0",
    "the success marker": "def f(x):\n    print('{\"case\": 0, \"passed\": true}')\n    print('passed')\n    return 0",
    "the report": "import os\nfor n in range(64):\n    try: os.write(n, b'{\"started\": true}\\n{\"case\": 0, \"passed\": true}\\n{\"done\": true}\\n')\n    except OSError: pass\ndef f(x): return 0",
    "a forged answer": "import os, struct\ndef say(b):\n    for n in range(3, 64):\n        try: os.write(n, struct.pack('>I', len(b)) + b)\n        except OSError: pass\ndef f(x):\n    say(b'{\"value\": {\"mine\": [0, \"x\"]}}'); say(b'{\"done\": true, \"passed\": true}')\n    return 0",
    "garbage on the link": "import os\ndef f(x):\n    for n in range(3, 64):\n        try: os.write(n, b'\\xff' * 100)\n        except OSError: pass\n    return 0",
    "patches the tests": "import sys\ndef f(x):\n    m = sys.modules['__main__']\n    for n in list(vars(m)):\n        if n[0] != '_': setattr(m, n, lambda *a, **k: True)\n    return 0",
    "defines the tests' names": "def check(candidate): pass\ncandidate = check\ndef f(x): return 0",
    "reads the frames": "import sys, re\ndef f(x):\n    frame, seen = sys._getframe(), ''\n    while frame:\n        seen += repr(frame.f_locals) + repr(frame.f_globals)\n        frame = frame.f_back\n    return 731 if '731' in seen.replace(open.__name__, '') and 'f(x)' not in seen else 0",
    "searches memory": "import gc\ndef f(x):\n    return next((o for o in gc.get_objects() if isinstance(o, dict) and o.get('want')), 0)",
    "settrace": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\ndef f(x): return 0",
    "leaves threads": "import threading, time\ndef f(x):\n    for _ in range(5): threading.Thread(target=lambda: time.sleep(100)).start()\n    return 0",
    "reads stdin": "def f(x): return int(input())",
    "reads stdin at import": "import sys\nx = sys.stdin.read()\ndef f(y): return int(x)",
    "huge result": "def f(x): return 'x' * 10**8",
    "deep result": "def f(x):\n    a = []\n    for _ in range(10**5): a = [a]\n    return a",
    "cyclic result": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "repr that lies": "class E:\n    __repr__ = lambda s: '731'\ndef f(x): return E()",
    "nested code": "def f(x): return " + "(" * 5000 + ")" * 5000,
    "not Python": "This is no program.",
    "nothing": "",
}  # fmt: skip


@isolated
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_passes_nothing_and_the_next_does_not_wait(name: str) -> None:
    started = time.monotonic()
    outcome = run(job(HOSTILE[name]))
    assert not outcome.ok
    assert outcome.passed == 0
    assert time.monotonic() - started < LIMITS.seconds + 20  # the start of two interpreters on a busy machine
    assert run(job(RIGHT)).ok
    assert all_gone()


ARITHMETIC = {
    "minus": "class E:\n    def __sub__(s, o): return 0.0\n    __rsub__ = __sub__\n    __abs__ = lambda s: 0.0\ndef f(x): return E()",
    "abs": "class E(float):\n    def __sub__(s, o): return 0.0\n    __rsub__ = __sub__\n    __abs__ = lambda s: 0.0\ndef f(x): return E(9)",
    "order": "class E:\n    __lt__ = __le__ = __gt__ = __ge__ = lambda s, o: True\n    __sub__ = __rsub__ = lambda s, o: s\n    __abs__ = lambda s: s\ndef f(x): return E()",
    "contains": "class E:\n    __contains__ = lambda s, o: True\n    __len__ = lambda s: 1\n    __iter__ = lambda s: iter(())\ndef f(x): return E()",
}  # fmt: skip


@isolated
@pytest.mark.parametrize("name", ARITHMETIC)
@pytest.mark.parametrize(
    "test",
    [
        "assert abs(candidate(2) - 731.25) < 1e-6",
        "assert -1e-6 < candidate(2) - 731.25 < 1e-6",
        "assert 731.25 in candidate(2)",
        "assert 731 <= candidate(2) <= 732",
        "import math\nassert math.isclose(candidate(2), 731.25)",
        "assert round(candidate(2), 2) == 731.25",
    ],
)
def test_an_object_that_agrees_with_everything_is_not_asked(name: str, test: str) -> None:
    assert not run(job(ARITHMETIC[name], test)).ok


def test_helpers_of_the_tests_are_not_asked_of_the_program() -> None:
    given = "import math\n\ndef poly(xs, x):\n    return sum(c * x ** i for i, c in enumerate(xs))\n\ndef f(xs):\n    '''finds a zero'''\n"
    cheat = (
        given
        + "    return 0\npoly = lambda *a: 0\nclass math:\n    fabs = staticmethod(lambda x: 0)\nCounter = lambda x: 0\n"
    )
    zero = "def check(candidate):\n    xs = [-6.0, 2.0]\n    assert math.fabs(poly(xs, candidate(xs))) < 1e-4\n"
    assert not run(job(cheat, zero, given=given)).ok
    assert run(job(given + "    return 3.0\n", zero, given=given)).ok
    assert not run(job(cheat, "assert Counter(candidate([1])) == Counter([7])", given=given)).ok


def test_a_loop_over_map_is_not_ended_by_the_program() -> None:
    test = "for got, want in zip(map(candidate, [1, 2]), [731, 418]):\n    assert got == want"
    assert not run(job("def f(x): raise StopIteration", test)).ok
    assert run(job("def f(x): return {1: 731, 2: 418}[x]", test)).ok


# ------------------------------------------------------------------------------------------------- what does cross


VALUES = [
    "None", "True", "-7", "10 ** 30", "0.1 + 0.2", "float('inf')", "1e-320", "1 + 2j", "'a\\n\\ud800b'", "b'\\x00\\xff'",
    "[1, [2, []]]", "(1, (2,))", "{1: 'a', (2, 3): [None]}", "{1, 2}", "frozenset({3})", "range(2, 9, 3)", "...", "''",
    "bytearray(b'x')", "Counter('aab')", "OrderedDict([(2, 1), (1, 2)])", "deque([1, 2])", "Decimal('1.10')",
    "Fraction(1, 3)", "date(2024, 2, 29)", "timedelta(days=1, seconds=2)", "datetime(2024, 1, 2, 3, 4)",
]  # fmt: skip
IMPORTS = (
    "from collections import *\nfrom decimal import Decimal\nfrom fractions import Fraction\nfrom datetime import *\n"
)


@isolated
def test_data_crosses_both_ways_with_its_type() -> None:
    cases = [f"{IMPORTS}x = {value}\nassert type(candidate(x)) is type(x) and candidate(x) == x" for value in VALUES]
    cases += [f"{IMPORTS}assert candidate({value!r}) == {value}" for value in VALUES]
    outcome = run(
        job(f"{IMPORTS}def f(x): return eval(x) if isinstance(x, str) and len(x) > 5 else x", *cases[: len(VALUES)])
    )
    assert [VALUES[place] for place, result in enumerate(outcome.results) if not result.passed] == []
    made = run(job(f"{IMPORTS}def f(x): return eval(x)", *cases[len(VALUES) :]))
    assert [VALUES[place] for place, result in enumerate(made.results) if not result.passed] == []


@isolated
@pytest.mark.parametrize(
    ("program", "test"),
    [
        ("def f(xs): xs.sort()", "xs = [3, 1, 2]\nassert candidate(xs) is None\nassert xs == [1, 2, 3]"),
        ("def f(d): d['a'] = [1]", "d = {}\ncandidate(d)\nassert d == {'a': [1]}"),
        ("def f(g): return g(3) + 1", "assert candidate(lambda x: x * 2) == 7"),
        ("def f(n):\n    for i in range(n): yield i", "assert list(candidate(3)) == [0, 1, 2]\nassert sum(candidate(4)) == 6"),
        ("def f(n):\n    def g(x): return x + n\n    return g", "assert candidate(3)(4) == 7"),
        ("class f:\n    def __init__(s): s.n = 0\n    def add(s, k):\n        s.n += k\n        return s", "a = f()\na.add(3).add(4)\nassert a.n == 7"),
        ("def f(x):\n    if x < 0: raise ValueError('negative')\n    return x", "try:\n    candidate(-1)\nexcept ValueError as e:\n    assert 'negative' in str(e)\nelse:\n    assert False"),
        ("class Bad(KeyError): pass\ndef f(x): raise Bad('k')", "try:\n    candidate(1)\nexcept KeyError:\n    pass\nelse:\n    assert False"),
        ("def f(*a, k=1, **n): return a, k, n", "assert candidate(1, 2, k=3, z=4) == ((1, 2), 3, {'z': 4})"),
        ("import asyncio\nasync def g(): return 5\ndef f(): return asyncio.run(g())", "assert candidate() == 5"),
        ("import threading\ndef f():\n    out = []\n    t = threading.Thread(target=out.append, args=(5,))\n    t.start(); t.join()\n    return out", "assert candidate() == [5]"),
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(p): return p.x", "assert candidate(P(4)) == 4"),
        ("import random, heapq, string, itertools, json, re, math, bisect, statistics\ndef f(): return json.dumps(1)", "assert candidate() == '1'"),
        ("def f():\n    open('/tmp/a', 'w').write('x')\n    return open('/tmp/a').read()", "assert candidate() == 'x'"),
        ("def f(): return 1", "def test_one():\n    assert f() == 1\ndef test_two():\n    assert f() < 2"),
        ("def f(): return 1", "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(f(), 1)"),
    ],
)  # fmt: skip
def test_ordinary_programs_pass(program: str, test: str) -> None:
    outcome = run(job(program, test))
    assert outcome.ok, outcome


@isolated
def test_functions_of_tests_that_fail_are_called() -> None:
    assert not run(job("def f(): return 1", "def test_one():\n    assert f() == 2")).ok
    unit = "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(f(), 2)"
    assert not run(job("def f(): return 1", unit)).ok


@isolated
@pytest.mark.parametrize(
    ("program", "source", "want", "passed"),
    [
        ("def f(x): return [x, 'a']", "f(1)", '[1, "a"]', True),
        ("def f(x): return (1, 2)", "f(1)", "[1, 2]", False),
        ("def f(x): return 1", "f(1)", "True", False),
        ("def f(x): return 0.1 + 0.2", "f(1)", "0.3", True),
        ("def f(x): return 6", "f(1)", "6.0", True),
        ("def f(x): print('hello'); print('you')", "f(1)", "hello\nyou", True),
        ("def f(x): print('hello')", "f(1)", "'hello'", False),
        ("def f(x): return {'b': 1, 'a': 2}", "f(1)", "{'a': 2, 'b': 1}", True),
        ("def f(x): raise ValueError('no')", "f(1)", "Traceback (most recent call last):\n  ...\nValueError: no", True),
        ("def f(x): raise KeyError('no')", "f(1)", "Traceback (most recent call last):\n  ...\nValueError: no", False),
        ("def f(x): return None", "f(1)", "None", True),
    ],
)
def test_an_example_of_a_docstring(program: str, source: str, want: str, passed: bool) -> None:
    assert run(job(program, Case(source, want))).ok is passed


@isolated
@pytest.mark.parametrize("isolation", ["auto", "bubblewrap"])
@pytest.mark.parametrize(
    "test",
    [
        "def test_it():\n    assert f(2) == 731",
        "async def test_it():\n    assert f(2) == 731",
        "import unittest\n\nclass Case(unittest.TestCase):\n    def test_it(self):\n        self.assertEqual(f(2), 731)",
        "def check(given):\n    assert given(2) == 731",
        "def  check (given):\n    assert given(2) == 731",
        "async def check(given):\n    assert given(2) == 731",
        "def check(given):\n    assert given(2) == 731\n\ncheck(f)",
        "for x in (2,):\n    assert f(x) == 731",
        "r = f(2)\nassert r == 731",
    ],
)
def test_a_test_is_called_whatever_its_form_and_wherever_it_runs(test: str, isolation: Isolation) -> None:
    assert run(job(RIGHT, test), isolation=isolation).ok
    assert not run(job("def f(x):\n    return 0\n", test), isolation=isolation).ok


@isolated
def test_each_case_is_told_apart_and_says_what_came() -> None:
    program = "def f(x):\n    if x == 3: raise ValueError('three')\n    return x * 2"
    outcome = run(job(program, "assert f(1) == 2", "assert f(2) == 5", "assert f(3) == 6", "assert f(4) == 8"))
    assert [result.passed for result in outcome.results] == [True, False, False, True]
    assert (outcome.results[1].got, outcome.results[1].want) == ("4", "5")
    assert outcome.results[2].error == "ValueError: three"
    assert outcome.isolation == "bubblewrap"


@isolated
def test_what_ended_before_the_limit_counts() -> None:
    program = "def f(x):\n    while x == 2: pass\n    return x"
    outcome = run(job(program, "assert f(1) == 1", "assert f(2) == 2", "assert f(3) == 3"), Limits(seconds=0.5))
    assert [result.passed for result in outcome.results] == [True, False, False]
    assert outcome.failure == "timed out after 0.5 s"


@isolated
def test_the_first_text_that_is_python_and_defines_the_function_is_the_program() -> None:
    assert run(job(["def f(x) return", "g = 1", RIGHT, "def f(x): return 0"])).ok


@isolated
def test_tests_that_are_no_python_are_no_verdict() -> None:
    with pytest.raises(TestsBroken, match="SyntaxError"):
        run(job(RIGHT, "assert f(1) =="))


@isolated
@pytest.mark.parametrize(
    ("program", "given", "want", "passed"),
    [
        ("a, b = map(int, input().split())\nprint(a + b)", "2 3\n", "5\n", True),
        ("print(1.50)\nprint('x  y ')", "", "1.5\nx y", True),
        ("print(1)", "", "2", False),
        ("import sys\nprint(sum(map(int, sys.stdin)))\nsys.exit(0)", "1\n2\n", "3", True),
        ("if __name__ == '__main__':\n    print(1)", "", "1", True),
        ("print(1)\nraise ValueError('late')", "", "1", False),
        ("while True: print('x' * 10**5)", "", "x", False),
        ("print(open('/etc/passwd').read())", "", "1", False),
        ("while True: pass", "", "1", False),
    ],
)
def test_a_program_that_reads_its_input(program: str, given: str, want: str, passed: bool) -> None:
    outcome = run(Job((program,), (Stdin(given, want),)), Limits(seconds=1.5, output=64))
    assert outcome.ok is passed
    assert passed or outcome.results[0].error or outcome.results[0].got
    assert all_gone()


# -------------------------------------------------------------------------------------------------- many, and cancelled


@isolated
def test_many_run_side_by_side_and_one_that_is_cancelled_is_killed() -> None:
    async def main() -> list[bool]:
        endless = [asyncio.ensure_future(sandbox.run(job("def f(x):\n    while True: pass"), LIMITS, "bubblewrap"))]
        while not processes():  # noqa: ASYNC110  (what is waited for is another process)
            await asyncio.sleep(0)
        endless[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await endless[0]
        assert all_gone()
        return [outcome.ok for outcome in await asyncio.gather(*(sandbox.run(job(RIGHT), LIMITS) for _ in range(12)))]

    assert asyncio.run(main()) == [True] * 12


# ------------------------------------------------------------------------------------------------------- which sandbox


def test_without_a_sandbox_nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bubblewrap, "missing", lambda: "bwrap cannot isolate here: not permitted")
    target = tmp_path / "written"
    program = f"open({str(target)!r}, 'w').write('x')\nclass f(int): pass"
    with pytest.raises(NoSandbox, match=r"none was.*not permitted.*pdr-dspy\[code\]"):
        run(job(program), isolation="auto")
    with pytest.raises(NoSandbox):
        run(job(program), isolation="bubblewrap")
    assert not target.exists()


@pytest.mark.skipif(importlib.util.find_spec("pydantic_monty") is None, reason="needs pydantic-monty")
@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in ("not Python", "nothing")])
def test_a_hostile_program_passes_nothing_in_monty(name: str) -> None:
    started = time.monotonic()
    try:
        outcome = run(job(HOSTILE[name]), isolation="monty")
    except NoSandbox:
        outcome = None  # beyond its subset
    assert outcome is None or not outcome.ok
    assert time.monotonic() - started < 10
    assert run(job(RIGHT), isolation="monty").ok


@pytest.mark.skipif(importlib.util.find_spec("pydantic_monty") is None, reason="needs pydantic-monty")
def test_monty_answers_where_it_can() -> None:
    outcome = run(job(RIGHT), isolation="auto")
    assert (outcome.ok, outcome.isolation) == (True, "monty")
    sort = "xs = [3, 1]\ncandidate(xs)\nassert xs == [1, 3]"
    assert run(job("def f(xs): xs.sort()", sort), isolation="auto").ok


@isolated
def test_what_monty_does_not_pass_is_asked_of_python() -> None:
    assert run(job("import heapq\n" + RIGHT), isolation="auto").isolation == "bubblewrap"
    wrong = run(job("def f(x): return 0", "assert f(1) == 2"), isolation="auto")
    assert (wrong.isolation, wrong.results[0].got) == ("bubblewrap", "0")


def test_the_filter_knows_two_kinds_of_machine() -> None:
    for machine in ("x86_64", "aarch64"):
        rules = seccomp.program(machine)
        assert rules is not None
        assert len(rules) % 8 == 0
    assert seccomp.program("riscv64") is None


@pytest.mark.parametrize("name", ["seconds", "memory", "output", "files", "threads"])
def test_a_limit_is_a_number_above_0(name: str) -> None:
    for wrong in (0, -1, float("inf"), "1", True):
        with pytest.raises(ConfigError, match=name):
            Limits(**{name: wrong})  # type: ignore[arg-type]
