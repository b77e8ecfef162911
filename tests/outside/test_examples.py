"""The programs of examples/: each runs on a scripted model, and does what its first line says."""

from __future__ import annotations

import importlib
import json
import sqlite3
from pathlib import Path

import dspy
import pytest

import examples
from examples import text_to_sql
from pdr_dspy.testing import Reply, ScriptedLM, ScriptedRequest, scripted_lm

NAMES = sorted(path.stem for path in Path(examples.__file__).parent.glob("[a-z]*.py"))


def refined(request: ScriptedRequest) -> bool:
    """Whether a draft is asked for that reads others."""
    return "Workspace:" in request.user


def chat(**fields: str) -> str:
    """As DSPy's chat adapter wants it."""
    return "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in {**fields, "completed": ""}.items())


def rag(request: ScriptedRequest) -> str:
    right = refined(request)
    quotation = "Its seal is checked every 400 hours." if right else "The seal is looked at every 400 hours."
    return f"Quotation: {quotation}\nAnswer: every 400 hours"


def classifier(request: ScriptedRequest) -> str:
    text = request.user
    team = "billing" if "invoice" in text else "network" if "connection" in text else "access"
    return f"Team: {'billing' if request.seed % 5 == 4 else team}"


def extractor(request: ScriptedRequest) -> str:
    lines = [{"what": "two chairs", "price": 120}, {"what": "table", "price": 230}]
    return f"Invoice: {json.dumps({'number': 'A17', 'lines': lines, 'total': 350 if refined(request) else 230})}"


def text_to_sql_reply(request: ScriptedRequest) -> str:
    ordered = "ORDER BY salary DESC LIMIT 1" if refined(request) else "ORDER BY pay DESC LIMIT 1"
    return f"Query: SELECT name FROM staff WHERE team = 'tools' {ordered}"


def agent(request: ScriptedRequest) -> str:
    if "next_tool_name" in request.system:
        for seen, part in (("40 pieces", "bolt"), ("12 pieces", "washer")):
            if seen not in request.user:
                return chat(next_thought="Look.", next_tool_name="stock", next_tool_args=json.dumps({"part": part}))
        return chat(next_thought="That is all.", next_tool_name="finish", next_tool_args="{}")
    if "[[ ##" in request.user:
        return chat(reasoning="Two look-ups.", answer="52")
    assert "40 pieces" in request.user
    assert "12 pieces" in request.user
    return f"40 and 12.\nAnswer: {52 if refined(request) or request.seed % 2 else 28}"


def code_repair(request: ScriptedRequest) -> str:
    half = "    middle = len(values) // 2\n    values = sorted(values)\n"
    right = (
        "    if len(values) % 2:\n        return values[middle]\n    return (values[middle - 1] + values[middle]) / 2\n"
    )
    body = half + (right if refined(request) else "    return values[middle]\n")
    return f"Code:\n```python\ndef median(values):\n{body}```"


def orders(request: ScriptedRequest) -> str:
    lists = {"pens": [("black pen", 2), ("envelope", 4)], "chairs": [("Chair", 3)], "lamp": [("lamp", 1), ("bulb", 4)]}
    found = next(items for word, items in lists.items() if word in request.user)
    return f"Ordered: {json.dumps([{'name': name, 'count': count} for name, count in found])}"


def two_steps(request: ScriptedRequest) -> str:
    if "Facts: <" in request.user or "Category" not in request.user:
        return "Facts: it is about money" if "invoice" in request.user else "Facts: it stops"
    return f"Category: {'billing' if 'Facts: it is about money' in request.user else 'bug'}"


EXPECTED: dict[str, tuple[Reply, list[str]]] = {
    "rag": (rag, ["every 400 hours", "(Its seal is checked every 400 hours.)", "5 calls"]),
    "classifier": (classifier, ["billing", "network", "access", "score 1.00"]),
    "extractor": (extractor, ['"total":350', "checked", "2 calls"]),
    "text_to_sql": (text_to_sql_reply, ["SELECT name", "[('Ada',)]", "5 calls"]),
    "agent": (agent, ["52", "5 calls"]),
    "orders": (orders, ["0.50 ", "1.00 ", "0.67 ", "score 0.72"]),
    "two_steps": (two_steps, ["1 ", "0 ", "6 calls", "score 0.67"]),
    "code_repair": (code_repair, ["round 1: checks [0.5, 0.5, 0.5, 0.5]", "round 2: checks [1.0", "checked"]),
}


def test_every_example_is_tried() -> None:
    assert set(EXPECTED) == set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    reply, shown = EXPECTED[name]
    lm: ScriptedLM = scripted_lm(reply)
    with dspy.context(lm=lm):
        importlib.import_module(f"examples.{name}").main()
    printed = capsys.readouterr().out
    assert [part for part in shown if part not in printed] == [], printed
    assert lm.served.calls > 0


def test_an_agent_whose_model_calls_no_tool_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with dspy.context(lm=scripted_lm(lambda request: "I do not know how.")):
        importlib.import_module("examples.agent").main()
    assert "wrote no tool call that can be read" in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short_and_runs_on_the_embedded_model(name: str) -> None:
    source = (Path(examples.__file__).parent / f"{name}.py").read_text(encoding="utf-8")
    code = [
        line
        for line in source.splitlines()
        if line.strip() and not line.lstrip().startswith(('"""', "#", "import", "from"))
    ]
    assert len(code) <= 42
    assert source.rstrip().endswith('if __name__ == "__main__":\n    with embedded():\n        main()')


@pytest.mark.parametrize(
    "query",
    [
        "DROP TABLE staff",
        "INSERT INTO staff VALUES ('Eve', 'tools', 1)",
        "SELECT 1; SELECT 2",
        "ATTACH 'other.db' AS other",
        "PRAGMA writable_schema = 1",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
        "SELECT wage FROM staff",
    ],
)
def test_a_query_can_only_read_and_ends(query: str) -> None:
    with pytest.raises((sqlite3.Error, sqlite3.Warning)):
        text_to_sql.rows(query)
