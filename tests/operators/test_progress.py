"""Who listens to where a program is."""

from __future__ import annotations

from pdr_dspy import PDR, session
from pdr_dspy.operators import Progress
from tests.support.checks import QA, SMALL, ask
from tests.support.solver import engine


def test_a_listener_hears_of_every_round() -> None:
    heard: list[Progress] = []
    with session(on_progress=heard.append):
        prediction = ask(PDR(QA, widths=(3, 2, 1), distiller="summary", **SMALL), engine())
    steps = [(each.step, each.round, each.width, len(each.drafts), len(each.workspaces)) for each in heard]
    assert steps == [
        ("drafting", 1, 3, 0, 0),
        ("drafted", 1, 3, 3, 0),
        ("ended", 1, 3, 3, 2),
        ("drafting", 2, 2, 0, 0),
        ("drafted", 2, 2, 2, 0),
        ("ended", 2, 2, 2, 1),
        ("drafting", 3, 1, 0, 0),
        ("drafted", 3, 1, 1, 0),
    ]
    assert all((each.rounds, each.outputs) == (3, ("answer",)) for each in heard)
    spent = [each.ledger.total for each in heard]
    assert spent == sorted(spent)
    assert spent[-1] == prediction.ledger.total
