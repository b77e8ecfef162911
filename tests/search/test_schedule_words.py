"""A schedule in words: what a writer of instructions has to know of it, and nothing in this library's terms."""

from __future__ import annotations

from typing import Any

import pytest

from pdr_dspy.operators.distillers import DISTILLERS
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search.proposing.schedule_words import in_words


@pytest.mark.parametrize(
    ("schedule", "said", "unsaid"),
    [
        ({"widths": (1,)}, ["one draft, of at most 1024 tokens"], ["workspace", "Round 2", "check", "common"]),
        ({"widths": (8,), "final": "vote"}, ["8 drafts", "most common answer of the 8"], ["workspace", "Round 2"]),
        ({"widths": (8,), "final": "medoid"}, ["most like the others'"], ["most common"]),
        ({"widths": (8,), "final": "best", "check": "tests"}, ["an automatic check scores highest"], ["most common"]),
        ({"widths": (3, 5), "final": "weighted", "check": "t", "k": 1}, ["5 drafts with the most votes"], []),
        (
            {"widths": (8, 4, 1), "distiller": "summary", "kappa": 600, "distill_tokens": 300, "refine_tokens": 99},
            ["Round 3: one draft", "notes of at most 300 tokens", "all 8 drafts", "all 4 drafts", "at most 99 tokens"],
            ["random", "picked", "check"],
        ),
        (
            {"widths": (8, 4, 1), "distiller": "random_k", "k": 3, "kappa": 500},
            ["3 of the 8", "3 of the 4", "drawn at random", "each draft has its own", "500 tokens"],
            ["notes", "picked", "check"],
        ),
        ({"widths": (8, 4, 1), "distiller": "topk", "k": 2}, ["2 of the 8", "picked by a call", "same for all"], []),
        ({"widths": (4, 2, 1), "distiller": "topk_per_sample", "k": 1}, ["1 of the 4", "each draft has its own"], []),
        (
            {"widths": (4, 1), "distiller": "checked", "check": "tests", "keep": True, "stop_at": 0.9},
            ["the 2 different solutions of the 4", "also reads the result of an automatic check", "unless the check",
             "at least 0.9 of 1 ends the run"],
            ["random"],
        ),
        ({"widths": (4, 1), "distiller": "random_k", "tally": True}, ["begins with how often each answer"], []),
        ({"widths": (1, 1), "distiller": "last", "tally": True}, ["the last solution"], ["how often", "flaws"]),
        ({"widths": (1, 1, 1), "distiller": "last", "critique": True}, ["lists the flaws", "Round 3"], ["8 drafts"]),
    ],
)  # fmt: skip
def test_widths_workspaces_checks_and_the_answer_are_said(
    schedule: dict[str, Any], said: list[str], unsaid: list[str]
) -> None:
    text = in_words(Schedule(**schedule))
    assert [part for part in said if part not in text] == [], text
    assert [part for part in unsaid if part in text] == [], text


def test_every_distiller_has_words_that_tell_it_from_the_others() -> None:
    names = [name for name in DISTILLERS.names() if not DISTILLERS.find(name).needs_gold]
    chains = {name for name in names if DISTILLERS.find(name).chain}
    words = {name: in_words(Schedule(widths=(1, 1) if name in chains else (4, 2, 1), distiller=name)) for name in names}
    assert len(names) > 5
    assert len(set(words.values())) == len(names)
    for name, text in words.items():
        assert ("4 drafts" in text) == (name not in chains)
        assert "_" not in text  # a name of this library says nothing to a writer
