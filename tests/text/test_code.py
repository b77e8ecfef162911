"""Programs in completions."""

# ruff: noqa: E501  (tables of programs)

from __future__ import annotations

import ast

import pytest

from pdr_dspy.text.code import MAX_CODE, programs

PROMPT = 'from typing import List\n\n\ndef helper(x):\n    return x * 2\n\n\ndef f(xs: List[int]) -> int:\n    """Doubles.\n\n    >>> f([1])\n    2\n    """\n'
BODY = "    total = helper(sum(xs))\n    return total\n"
WHOLE = "def f(xs: List[int]) -> int:\n" + BODY
COMPLETIONS = {
    "the body": BODY,
    "the body without its first indentation": BODY.strip(),
    "the body without indentation": "total = helper(sum(xs))\nreturn total",
    "a body that begins with a function, without its first indentation": "def twice(x):\n        return 2 * x\n    return twice(sum(xs))",
    "the body of a base model that goes on": BODY + "\n\ndef other():\n    pass\n\nprint(f([1]))\n",
    "the function": WHOLE,
    "prompt and body": PROMPT + BODY,
    "fenced": f"```python\n{WHOLE}```",
    "fenced, capitals": f"```Python\n{WHOLE}```\nDone.",
    "fenced without a language": f"Here:\n\n```\n{WHOLE}```",
    "fenced by tildes": f"~~~py\n{WHOLE}~~~",
    "fenced by four": f"````python\n{WHOLE}````",
    "a fence that stays open": f"Sure.\n```python\n{WHOLE}",
    "a fence that the prompt opened": f"{WHOLE}```\nThis works.",
    "a fence behind its label": f"Code: ```python\n{WHOLE}```",
    "a fence in a list": "1. First:\n\n   ```python\n" + "".join(f"   {line}\n" for line in WHOLE.splitlines()) + "   ```\n",
    "a fenced body": f"```python\n{BODY}```",
    "a fenced body at the margin": "```python\ntotal = helper(sum(xs))\nreturn total\n```",
    "prose before and after": f"The function sums.\n\n{WHOLE}\nThis doubles the sum: it is right.\n",
    "CRLF": WHOLE.replace("\n", "\r\n"),
    "an example of its use after it": f"```python\n{WHOLE}```\nUse it:\n```python\nprint(f([1, 2]))\n```",
    "an example of its use before it": f"```python\nf([1, 2])\n```\n```python\n{WHOLE}```",
    "a wrong first try": f"```python\ndef f(xs):\n    return 0\n```\nNo, better:\n```python\n{WHOLE}```",
    "output in another fence": f"```python\n{WHOLE}```\n```text\n6\n```\n```json\n{{}}\n```",
    "two blocks": "```python\nimport math\ndef half(x):\n    return x\n```\nand\n```python\ndef f(xs):\n    return half(helper(math.fsum(xs)))\n```",
    "helper after it": "```python\ndef f(xs):\n    return late(sum(xs))\n```\nwith\n```python\ndef late(x):\n    return 2 * x\n```",
    "a thought before it": f"<think>\n```python\ndef f(xs): return 0\n```\n</think>\n```python\n{WHOLE}```",
    "from __future__": f"```python\nfrom __future__ import annotations\n{WHOLE}```",
    "a lambda": "f = lambda xs: 2 * sum(xs)",
    "strings with fences inside": '```python\ndef f(xs):\n    note = "```"\n    return 2 * sum(xs)\n```',
    "tabs": "```python\ndef f(xs):\n\treturn 2 * sum(xs)\n```",
}  # fmt: skip


def outcome(texts: tuple[str, ...]) -> object:
    """What the first text that is Python and defines f answers to [1, 2]; run here, since the tests wrote it."""
    for text in texts:
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue
        names = {"__name__": "tests"}
        exec(compile(tree, "test", "exec"), names)
        if "f" in names:
            return names["f"]([1, 2])  # type: ignore[operator]
    return None


@pytest.mark.parametrize("name", COMPLETIONS)
def test_the_program_of_a_completion(name: str) -> None:
    assert outcome(programs(COMPLETIONS[name], PROMPT, "f")) == 6


@pytest.mark.parametrize(
    "name", [name for name in COMPLETIONS if "body" not in name and name != "a fence that the prompt opened"]
)
def test_without_a_task_that_is_python_the_code_stands_alone(name: str) -> None:
    code = COMPLETIONS[name].replace("helper(", "(2 * ").replace("List[int]", "list")
    assert outcome(programs(code, "Double the sum of a list. Call it f.", "f")) == 6


def test_code_is_kept_as_it_is_written() -> None:
    code = 'import os\n\n\nclass A:\n\tdef f(self):\n\t\treturn """\n  # Answer: 3\n```\n"""  # text\n\n\nprint(A())'
    assert programs(code)[0] == code
    assert programs(f"````python\n{code}\n````")[0] == code


def test_a_script_without_a_function_is_the_longest_or_last_block() -> None:
    text = "```python\nx = int(input())\nprint(x)\n```\nIt prints:\n```\n3\n```"
    assert "x = int(input())\nprint(x)" in programs(text)


def test_there_is_none_in_an_unfinished_thought_or_beyond_the_limit() -> None:
    assert programs("<think>\n```python\ndef f(): pass\n```\nwait", PROMPT, "f") == ()
    assert programs("x" * (MAX_CODE + 1)) == ()
    assert programs("", PROMPT, "f") == ()


DOUBLE = "def double(n):\n    return TWO * n"
ORDERS = {
    "a constant": "TWO = 2\n\n{}",
    "a comment": "# Doubles.\nTWO = 2\n{}",
    "a docstring": '"""Doubles."""\n\nTWO = 2\n{}',
    "an annotation": "TWO: int = 2\n{}",
    "several names": "TWO, X = 2, 3\n{}",
    "a starred name": "*_, TWO = 1, 2\n{}",
    "an item": "d = {{}}\nd['t'] = 2\nTWO = d['t']\n{}",
    "a bracket": "(TWO) = 2\n{}",
    "an expression": "(TWO := 2)\n{}",
    "several lines": "TWO = (\n1\n+ 1\n)\n{}",
    "a try": "try:\n    from nowhere_at_all import TWO\nexcept ImportError:\n    TWO = 2\n{}",
    "a condition": "if True:\n    TWO = 2\nelse:\n    TWO = 3\n{}",
    "a with": "from contextlib import suppress\nwith suppress(ValueError):\n    TWO = 2\n{}",
    "a loop": "for TWO in (1, 2):\n    pass\n{}",
    "a match": "match 1:\n    case 1:\n        TWO = 2\n{}",
    "an assertion": "assert True\nTWO = 2\n{}",
    "a call": "globals()['TWO'] = 2\n{}",
    "from __future__": "from __future__ import annotations\nTWO = 2\n{}",
    "a word": "Solution\n\nTWO = 2\n{}",
    "words": "Solution in Python\nTWO = 2\n{}\n\nComplexity: O(n)\n- O(1)",
    "prose": "Here is the code:\n\nTWO = 2\n\n{}\n\nIt doubles the number: that is all.",
    "prose between": "Here's a constant.\nTWO = 2\n\nNow the function:\n\n{}",
    "prose with an open bracket": "Sure (see below:\nTWO = 2\n{}",
    "a list in prose": "Steps:\n- first\n- second\n1. third\n\nTWO = 2\n{}\n---\nDone!",
    "a session after it": "TWO = 2\n{}\n\n>>> double(2)\n4\n",
    "a decorator of several lines, and prose": "import functools\nTWO = 2\n\n@functools.lru_cache(\n    maxsize=None\n)\n{}\n\nIt is cached, too.",
    "a continued line, and prose": "TWO = 1 + \\\n1\n{}\nIt is right, I think.",
    "another function that is cut off": "TWO = 2\n{}\n\ndef other(n):\n    return (n +",
    "a main part": "TWO = 2\n{}\n\nif __name__ == '__main__':\n    print(double(2))",
    "a fenced block": "Code:\n```python\nTWO = 2\n\n{}\n```",
    "a block before": "```python\nTWO = 2\n```\nand\n```python\n{}\n```",
    "a fence in a docstring": 'TWO = 2\n\n{}\n\ndef other():\n    """Use:\n\n    ```python\n    double(2)\n    ```\n    """',
    "an indentation of all": "  TWO = 2\n  def double(n):\n      return TWO * n",
    "a definition under a condition": "TWO = 2\nif TWO:\n    def double(n):\n        return TWO * n",
    "a definition in a tuple": "TWO, double = 2, lambda n: 2 * n",
}  # fmt: skip
STOPPED = {
    "an exit": "raise SystemExit(3)\n{}",
    "an exit in a condition": "if True:\n    raise SystemExit(3)\n{}",
    "an exit after it": "{}\nraise SystemExit(3)",
    "an exit after prose": "Here is the code:\nraise SystemExit(3)\n{}",
    "an exit before prose": "{}\n\nraise SystemExit(3)\nThis is right, I think.",
    "a failed assertion": "assert 0\n{}",
    "an unknown name": "TWO = THREE - 1\n{}",
    "a return at the margin": "return 5\n{}",
    "a broken helper": "def helper(x) return x\n\n{}",
    "a broken class": "class A(:\n    pass\n\n{}",
}


def doubled(texts: tuple[str, ...]) -> object:
    """The result of the first text that Python compiles and that defines `double`, as the sandbox chooses it."""
    for text in texts:
        try:
            made = compile(text, "test", "exec")
        except SyntaxError:
            continue
        if "double" in made.co_names:
            names = {"__name__": "tests"}
            try:
                exec(made, names)
            except BaseException:
                return None
            return names["double"](2)  # type: ignore[operator]
    return None


@pytest.mark.parametrize("prompt", ["Double a number.", 'def double(n):\n    """Doubles."""\n'])
@pytest.mark.parametrize("name", ORDERS)
def test_statements_before_a_function_belong_to_the_program(name: str, prompt: str) -> None:
    assert doubled(programs(ORDERS[name].format(DOUBLE), prompt, "double")) == 4


@pytest.mark.parametrize("prompt", ["Double a number.", 'def double(n):\n    """Doubles."""\n'])
@pytest.mark.parametrize("name", STOPPED)
def test_statements_that_stop_a_program_are_not_dropped(name: str, prompt: str) -> None:
    assert doubled(programs(STOPPED[name].format(DOUBLE.replace("TWO", "2")), prompt, "double")) is None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("TWO = 2\nimport sys\nprint(TWO)", "TWO = 2\nimport sys\nprint(TWO)"),
        ("while True: pass\nimport sys", "while True: pass\nimport sys"),
        ("Here you go:\nTWO = 2\nimport sys\nprint(TWO)\nIt prints 2, as it must.", "TWO = 2\nimport sys\nprint(TWO)"),
        ("n = int(input())\nprint(n * 2)", "n = int(input())\nprint(n * 2)"),
        ("X = '\\d \\N{DASH}'\nprint(2if X else 3)", "X = '\\d \\N{DASH}'\nprint(2if X else 3)"),
    ],
)
def test_a_script_keeps_its_order(text: str, code: str) -> None:
    assert programs(text)[0] == code


def test_a_broken_function_stays_broken() -> None:
    text = "import math\nx = 3\ndef f(xs) return math.fsum(xs)"
    assert outcome(programs(text, PROMPT, "f")) is None
    assert "def f(xs) return" in programs(text, PROMPT, "f")[0]


def test_a_long_chain_of_conditions_is_read() -> None:
    chain = "".join(f"elif x == {n}:\n    y = {n}\n" for n in range(800))
    text = f"x = 1\nif x == -1:\n    y = 0\n{chain}\ndef double(n):\n    return 2 * n"
    assert programs(text, "", "double") == (text,)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "```" * 50_000,
        "`" * 100_000,
        "def f(" * 20_000,
        "(" * 100_000,
        "\n" * 100_000,
        "'''" * 30_000,
        "x\n" * 90_000 + "a b",
        "def f(\n" * 20_000,
        "f(g(\n" * 30_000,
        "\\N{" * 60_000,
        "not " * 50_000,
        "a-" * 900 + "a",
        "x=" * 90_000 + "1",
    ],
)
def test_hostile_completions_are_read_in_no_time(text: str) -> None:
    assert isinstance(programs(text, PROMPT, "f"), tuple)
