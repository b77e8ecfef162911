from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

import pytest

from pdr_dspy.calls.ledger import Call, Phase, Usage
from pdr_dspy.calls.output_format import OutputFormat
from pdr_dspy.calls.predict import Reply
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.distillers import DISTILLERS, DistillerInput
from pdr_dspy.operators.distillers.picking import MOST_CHOICES, selections
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.operators.workspace import Draft, Workspace
from pdr_dspy.prompts.parse import Reading
from pdr_dspy.prompts.roles import Role
from tests.support.solver import count, wait


def drafts(size: int) -> tuple[Draft, ...]:
    return tuple(
        Draft(round=1, index=n, solution=f"solution{n}\nAnswer: {n}", outputs={"answer": str(n)}) for n in range(size)
    )


def given_to(
    schedule: Schedule, texts: Sequence[str | Reply] = (), *, size: int = 5, width: int = 3, **more: Any
) -> DistillerInput:
    """A round whose model answers with `texts`, in turn; a text may be a whole Reply."""
    asked: list[Mapping[str, Any]] = []

    part = schedule.distill_by

    async def ask(values: Sequence[Mapping[str, Any]], forms: Sequence[OutputFormat] = ()) -> list[Reply]:
        assert part.phase is not None
        replies = []
        for value in values:
            text = texts[len(asked) % len(texts)]
            asked.append(value)
            if isinstance(text, Reply):
                replies.append(text)
                continue
            call = Call(phase=part.phase, index=len(replies), usage=Usage(input=1, output=1))
            if text == "!":
                replies.append(Reply(call.model_copy(update={"failure": "down"}), "", Reading({}, ())))
                continue
            outputs: dict[str, Any] = {}
            if part.role is Role.SELECT and text.startswith("["):
                outputs["selected"] = [int(number) for number in text.strip("[]").split(",") if number]
            replies.append(Reply(call, text, Reading(outputs, ())))
        return replies

    return DistillerInput(
        drafts=drafts(size), next_width=width, k=schedule.k, kappa=schedule.kappa, tally=schedule.tally,
        seed=more.pop("seed", 1), ask=ask, count=count, **more,
    )  # fmt: skip


class Made(NamedTuple):
    workspaces: tuple[Workspace, ...]
    calls: tuple[Call, ...]


def run(name: str, texts: Sequence[str | Reply] = (), **more: Any) -> Made:
    schedule = Schedule(widths=(1, 1) if name == "last" else (5, 3, 1), distiller=name, k=2, **more.pop("settings", {}))
    made = wait(schedule.distill_by(given_to(schedule, texts, **more)))
    return Made(made.workspaces, made.calls or ())


def test_a_summary_is_shared_and_costs_one_call() -> None:
    made = run("summary", ["They agree on 4."])
    assert len(made.workspaces) == 3
    assert made.workspaces[0] is made.workspaces[2]
    assert made.workspaces[0].text == "They agree on 4."
    assert sorted(made.workspaces[0].sources) == [0, 1, 2, 3, 4]
    assert len(made.calls) == 1


def test_a_summary_that_failed_leaves_the_solutions_themselves() -> None:
    made = run("summary", ["!"], settings={"kappa": 60})
    assert made.calls[0].failure == "down"
    assert "Answer:" in made.workspaces[0].text
    assert made.workspaces[0].tokens <= 60


def test_topk_takes_the_named_candidates_in_their_order() -> None:
    made = run("topk", ["[2, 5]"])
    shared = made.workspaces[0]
    assert made.workspaces == (shared,) * 3
    assert len(shared.sources) == 2
    assert shared.text == "\n\n".join(
        f"Candidate {place}:\nsolution{source}\nAnswer: {source}" for place, source in enumerate(shared.sources, 1)
    )


@pytest.mark.parametrize("text", ["[9, 0, -3]", "I cannot choose.", "!", "[]"])
def test_a_selection_that_names_nobody_is_replaced_at_random_and_said(text: str) -> None:
    made = run("topk", [text])
    assert made.calls[0].failure
    assert len(set(made.workspaces[0].sources)) == 2
    assert made.workspaces == run("topk", [text]).workspaces


def test_a_selection_of_too_many_repeated_or_foreign_numbers_is_cut_to_k() -> None:
    assert len(run("topk", ["[4, 4, 77, 2, 1]"]).workspaces[0].sources) == 2
    assert len(run("topk", ["[4]"]).workspaces[0].sources) == 1
    prose = run("topk", ["I would keep Candidate 3 and candidate 1."])
    assert (prose.calls[0].failure, len(prose.workspaces[0].sources)) == (None, 2)


@pytest.mark.parametrize(("k", "size"), [(1, 1), (1, 8), (2, 4), (2, 32), (3, 11), (3, 19), (4, 13), (6, 12), (5, 3)])
def test_a_form_of_a_selection_allows_every_choice_of_k_different_numbers_and_nothing_else(k: int, size: int) -> None:
    spelled, _ = selections(k, size)
    k = min(k, size)
    chosen = [json.loads(text.removeprefix("Selected: ")) for text in spelled.choices]
    assert set(map(frozenset, chosen)) == set(map(frozenset, combinations(range(1, size + 1), k)))
    assert all(len(set(numbers)) == len(numbers) == k for numbers in chosen)
    assert len(chosen) <= MOST_CHOICES
    if math.perm(size, k) <= MOST_CHOICES:  # then in any order
        assert len(chosen) == math.perm(size, k)


def test_a_long_selection_has_the_schema_alone() -> None:
    (schema,) = selections(4, 16)
    assert schema.kind == "schema"
    assert schema.fits('{"selected": [1, 2, 3, 16]}')


@pytest.mark.parametrize(("form", "count", "noted"), [("held", 2, True), ("", 1, False), ("ignored", 1, False)])
def test_a_number_that_was_held_to_stand_there_twice_is_filled_up_and_said(form: Any, count: int, noted: bool) -> None:
    call = Call(phase=Phase.SELECT, usage=Usage(input=1, output=1), format=form)
    made = run("topk", [Reply(call, '{"selected": [4, 4]}', Reading({"selected": [4, 4]}, ()))])
    assert len(set(made.workspaces[0].sources)) == count
    (own,) = made.calls
    assert own.failure is None
    assert bool(own.note) is noted
    if noted:
        assert "1 different candidates instead of 2" in own.note
        again = run("topk", [Reply(call, '{"selected": [4, 4]}', Reading({"selected": [4, 4]}, ()))])
        assert again.workspaces == made.workspaces


@pytest.mark.parametrize("text", ["2, 5", "(2, 5)", "2 & 5."])
def test_numbers_without_a_label_are_a_selection(text: str) -> None:
    made = run("topk", [text])
    assert made.calls[0].failure is None
    assert made.workspaces == run("topk", ["[2, 5]"]).workspaces


def test_per_sample_selection_is_made_once_for_each_next_draft_over_its_own_order() -> None:
    made = run("topk_per_sample", ["[1, 2]"])
    assert len(made.calls) == 3
    assert len({workspace.sources for workspace in made.workspaces}) > 1


def test_with_fewer_drafts_than_k_all_are_taken() -> None:
    for name in ("topk", "topk_per_sample", "random_k"):
        made = run(name, ["[1, 2]"], size=1)
        assert all(workspace.sources == (0,) for workspace in made.workspaces)


def test_the_last_solution_is_the_state_without_a_heading() -> None:
    made = run("last", size=1, width=1)
    assert made.workspaces[0].text == "solution0\nAnswer: 0"
    assert made.calls == ()


def test_the_oracles() -> None:
    def even(outputs: Mapping[str, Any]) -> float:
        return float(int(outputs["answer"]) % 2 == 0)

    right = run("oracle_correct", oracle=even)
    assert all(set(w.sources) <= {0, 2, 4} and len(w.sources) == 2 for w in right.workspaces)
    wrong = run("oracle_incorrect", oracle=even)
    assert all(set(w.sources) == {1, 3} for w in wrong.workspaces)
    drawn = run("oracle_random", oracle=even)
    assert all(len(w.sources) == 2 for w in drawn.workspaces)
    none = run("oracle_correct", oracle=lambda _: 0.0)
    assert all(workspace.empty and workspace.sources == () for workspace in none.workspaces)
    with pytest.raises(ConfigError, match="needs the gold answer"):
        run("oracle_correct")


def test_a_tally_says_how_often_each_answer_came_up_in_the_whole_round() -> None:
    made = [
        Draft(round=1, index=n, solution=f"s{n}", outputs={"answer": a}) for n, a in enumerate(["7", "8", "7", " 7"])
    ]
    made += [Draft(round=1, index=4, solution="cut", truncated=True), Draft(round=1, index=5, solution="nothing")]
    schedule = Schedule(widths=(6, 1), distiller="random_k", k=1, tally=True)
    given = given_to(schedule, width=1)
    (workspace,) = wait(schedule.distill_by(replace(given, drafts=tuple(made)))).workspaces
    first, rest = workspace.text.split("\n\n", 1)
    assert first == "Answers of all attempts: 7 (3 of 6), no answer (2 of 6), 8 (1 of 6)"
    assert rest.startswith("Candidate 1")
    assert len(workspace.sources) == 1


@pytest.mark.parametrize("name", ["random_k", "topk", "summary"])
@pytest.mark.parametrize("kappa", [48, 60, 90, 400])
def test_kappa_holds_with_a_tally(name: str, kappa: int) -> None:
    made = run(name, ["[1, 2]" if name == "topk" else "word " * 200], settings={"tally": True, "kappa": kappa})
    for workspace in made.workspaces:
        assert workspace.tokens <= kappa
        assert wait(count([workspace.text])) == [workspace.tokens]
    if kappa == 400:
        assert made.workspaces[0].text.startswith("Answers of all attempts: ")


def test_unfinished_candidates_are_marked() -> None:
    given = given_to(Schedule(widths=(2, 1), distiller="random_k", k=1), size=1)
    cut = Draft(round=1, index=0, solution="half of", truncated=True)
    workspace = wait(given.admit([cut]))
    assert workspace.text == "Candidate 1 (unfinished):\nhalf of"


def test_kappa_holds_for_all_whatever_the_model_writes() -> None:
    for name in DISTILLERS.names():
        made = run(name, ["ramble " * 900], settings={"kappa": 50}, oracle=lambda _: 1.0)
        assert all(workspace.tokens <= 50 for workspace in made.workspaces)
