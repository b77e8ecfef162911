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


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["```" * 50_000, "`" * 100_000, "def f(" * 20_000, "(" * 100_000, "\n" * 100_000, "'''" * 30_000]
)
def test_hostile_completions_are_read_in_no_time(text: str) -> None:
    assert isinstance(programs(text, PROMPT, "f"), tuple)
