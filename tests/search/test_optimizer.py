"""The optimizer on a simulated reasoner: what it tries, reuses, resumes, confirms, returns and refuses."""

from __future__ import annotations

import copy
import hashlib
import math
import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest
from dspy.teleprompt import BetterTogether, LabeledFewShot

from pdr_dspy.artifact import load
from pdr_dspy.errors import ConfigError, DataError, StoreError
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.operators.strategies import PDR, LongCoT
from pdr_dspy.search import PDROptimizer, SearchProgress, Space
from pdr_dspy.testing import ScriptedLM, ScriptedRequest, scripted_lm
from pdr_dspy.verifiers.base import Score

pytestmark = pytest.mark.slow

SMALL = Space(
    rounds=(1, 2), widths=(1, 2, 4), kappa=(200,), distiller=("random_k", "summary"), k=(1, 2), draft_tokens=(60,)
)


class Exact:
    """Right or wrong by equality of text."""

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        return Score(float(prediction.answer == example.answer))

    def check_gold(self, example: dspy.Example) -> None:
        if "answer" not in example:
            raise DataError("no gold answer")

    def describe(self) -> dict[str, Any]:
        return {"kind": "Exact"}


def chance(*parts: object) -> float:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big") / 2**48


def reasoner(request: ScriptedRequest) -> str:
    """Drafts are right by difficulty; refinements are right when most of what they read is, or by luck."""
    question = re.search(r"Question: (q\d+)", request.user)
    assert question is not None
    name = question[1]
    gold, easy = f"a{name[1:]}", 0.25 + 0.5 * chance("easy", name)
    wrong = [f"w{int(4 * chance('wrong', name, request.seed))}"]
    if "Candidates:" in request.user:
        return "They say:\n" + "\n".join(f"Answer: {answer}" for answer in re.findall(r"Answer: (\w+)", request.user))
    read = re.findall(r"Answer: (\w+)", request.user)
    if read:
        share = Counter(read)[gold] / len(read)
        easy = 0.1 * easy + 0.9 * min(1.0, 1.5 * share)
    right = chance("luck", name, request.seed) < easy
    return f"Some steps of work.\nAnswer: {gold if right else wrong[0]}"


def questions(count: int, start: int = 0) -> list[dspy.Example]:
    return [
        dspy.Example(id=f"q{i}", question=f"q{i}", answer=f"a{i}").with_inputs("question")
        for i in range(start, start + count)
    ]


def student(**settings: Any) -> Operator:
    return LongCoT("question -> answer", **{"draft_tokens": 60, "kappa": 200, **settings})


class InTurn(dspy.Module):
    """Two operators, one after the other."""

    def __init__(self, second: Operator) -> None:
        super().__init__()
        self.first, self.second = student(), second

    async def aforward(self, question: str) -> dspy.Prediction:
        await self.first.acall(question=question)
        return await self.second.acall(question=question)


def another() -> Operator:
    """An operator under another schedule than the student's."""
    return PDR("question -> answer", widths=(2, 1), distiller="random_k", k=1, draft_tokens=60, kappa=200)


def mixed() -> InTurn:
    """Two operators under different schedules."""
    return InTurn(another())


def compiled(lm: ScriptedLM, program: dspy.Module | None = None, count: int = 12, **settings: Any) -> PDROptimizer:
    keywords: dict[str, Any] = {"space": SMALL, "trials": 8, "confirm_repeats": 2, **settings}
    optimizer = PDROptimizer(Exact(), **keywords)
    with dspy.context(lm=lm):
        optimizer.compile(program or student(), trainset=questions(count), valset=questions(count, 100))
    return optimizer


def shape(optimizer: PDROptimizer) -> list[tuple[Any, ...]]:
    assert optimizer.result is not None
    return [
        (t.number, t.origin, t.state, str(t.schedule), t.score, t.sequential, t.total, t.calls)
        for t in optimizer.result.trials
    ]


def test_finds_a_schedule_that_is_better_on_untouched_questions() -> None:
    optimizer = compiled(scripted_lm(reasoner), count=30, trials=12)
    result = optimizer.result
    assert result is not None
    assert result.best.schedule.rounds == 2
    assert result.confirmation.kept == "winner"
    assert result.confirmation.untouched
    assert result.confirmation.winner.score > result.confirmation.student.score
    program: Any = result.program
    assert program.schedule == result.best.schedule
    assert program.score == result.confirmation.winner.score
    assert program.candidate_programs[0]["score"] == max(t.pooled for t in result.trials if t.state == "measured")
    assert len(program.trial_logs) == len(result.trials)


def test_student_and_baselines_come_first_and_the_student_is_not_changed() -> None:
    program = student()
    before = program.dump_state()
    optimizer = compiled(scripted_lm(reasoner), program)
    assert optimizer.result is not None
    assert [t.origin for t in optimizer.result.trials[:3]] == ["student", "SR", "fast"]
    assert optimizer.result.finalists[0].number == optimizer.result.best.number
    assert 0 in [finalist.number for finalist in optimizer.result.finalists]
    assert program.dump_state() == before
    assert program.schedule.widths == (1,)


def test_equal_calls_of_different_trials_are_paid_once() -> None:
    lm = scripted_lm(reasoner)
    optimizer = compiled(lm)
    result = optimizer.result
    assert result is not None
    assert result.saved > 0
    assert result.paid == lm.served.input + lm.served.output
    assert sum(t.paid for t in result.trials) < result.paid
    wide = [t for t in result.trials if t.state == "measured" and t.schedule.widths == (4, 1)]
    assert wide[-1].reused > 0


def test_a_limit_is_kept_and_expensive_schedules_cost_nothing() -> None:
    free = compiled(scripted_lm(reasoner), trials=9).result
    assert free is not None
    limit = int(min(t.total for t in free.trials if t.schedule.widths == (2, 1)) * 1.02)
    lm = scripted_lm(reasoner)
    result = compiled(lm, trials=9, max_total=limit).result
    assert result is not None
    assert result.best.total <= limit
    assert not any(t.feasible for t in result.trials if t.schedule.widths == (4, 1))
    dropped = [t for t in result.trials if t.dropped is not None and "over the limit on total" in t.dropped]
    assert dropped
    assert all(t.runs < 12 and not t.feasible for t in dropped)


def test_a_resumed_study_equals_one_that_was_never_stopped(tmp_path: Path) -> None:
    whole = shape(compiled(scripted_lm(reasoner), trials=8, run_dir=tmp_path / "whole"))
    for stop_after in (1, 20, 40):
        folder = tmp_path / f"stopped{stop_after}"

        class Killed(Exception):
            pass

        seen: list[str] = []

        def kill(progress: SearchProgress, seen: list[str] = seen, stop_after: int = stop_after) -> None:
            seen.append(progress.event)
            if progress.event == "row" and seen.count("row") == stop_after:
                raise Killed

        lm = scripted_lm(reasoner)
        with pytest.raises(Killed):
            compiled(lm, trials=8, run_dir=folder, progress=kill)
        again = scripted_lm(reasoner)
        assert shape(compiled(again, trials=8, run_dir=folder)) == whole
        assert again.served.calls > 0


def die(folder: str, rows: int) -> None:
    """Search, and be killed in the middle of a trial after so many rows."""
    seen = Counter[str]()

    def kill(progress: SearchProgress) -> None:
        seen[progress.event] += 1
        if seen["row"] == rows:
            os.kill(os.getpid(), signal.SIGKILL)

    compiled(scripted_lm(reasoner), trials=6, run_dir=folder, progress=kill)


def test_kill_9_in_the_middle_of_a_trial(tmp_path: Path) -> None:
    whole = compiled(scripted_lm(reasoner), trials=6, run_dir=tmp_path / "whole")
    folder = tmp_path / "killed"
    code = f"import tests.search.test_optimizer as t; t.die({str(folder)!r}, 30)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    lm = scripted_lm(reasoner)
    again = compiled(lm, trials=6, run_dir=folder)
    assert shape(again) == shape(whole)
    assert whole.result is not None
    assert again.result is not None
    assert lm.served.input + lm.served.output < whole.result.paid


def test_a_finished_study_started_again_pays_nothing(tmp_path: Path) -> None:
    first = compiled(scripted_lm(reasoner), run_dir=tmp_path)
    lm = scripted_lm(reasoner)
    second = compiled(lm, run_dir=tmp_path)
    assert lm.served.calls == 0
    assert shape(second) == shape(first)
    assert first.result is not None
    assert second.result is not None
    assert second.result.confirmation.verdict == first.result.confirmation.verdict
    assert (tmp_path / "best.json").exists()


def test_torn_journal_and_stale_lock_are_repaired(tmp_path: Path) -> None:
    first = compiled(scripted_lm(reasoner), run_dir=tmp_path)
    journal = tmp_path / "study.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4, "wor')
    Path(f"{journal}.lock").symlink_to(journal)
    assert shape(compiled(scripted_lm(reasoner), run_dir=tmp_path)) == shape(first)


def test_foreign_files_and_an_unusable_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "study.journal").write_text("hello\n")
    with pytest.raises(StoreError, match="line 1"):
        compiled(scripted_lm(reasoner), run_dir=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        compiled(scripted_lm(reasoner), run_dir=tmp_path / "file")


REFUSED = 3


def driven(folder: str) -> None:
    """One of several processes that begin the same search at once."""
    try:
        compiled(scripted_lm(reasoner), trials=8, run_dir=folder)
    except StoreError as error:
        sys.exit(REFUSED if "is driven by" in str(error) else 1)


def test_of_processes_that_begin_the_same_search_at_once_one_runs_it(tmp_path: Path) -> None:
    whole = compiled(scripted_lm(reasoner), trials=8, run_dir=tmp_path / "whole")
    folder = tmp_path / "shared"
    code = f"import tests.search.test_optimizer as t; t.driven({str(folder)!r})"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    others = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(3)]
    codes = {other.wait() for other in others}
    assert 0 in codes
    assert codes <= {0, REFUSED}  # 0 twice if one began after another had ended
    last = compiled(lm := scripted_lm(reasoner), trials=8, run_dir=folder)
    assert shape(last) == shape(whole)
    assert lm.served.calls == 0


def test_small_space_is_searched_to_its_end_without_repeats() -> None:
    space = SMALL.narrow(distiller=("random_k",), widths=(1, 2), k=(1, 2))
    result = compiled(scripted_lm(reasoner), space=space, trials=50).result
    assert result is not None
    measured = [t.candidate.key for t in result.trials if t.state == "measured"]
    assert len(measured) == len(set(measured)) == space.size == 4
    assert result.stopped == "every candidate was tried or costs too much"


def test_token_and_time_limits_stop_between_trials() -> None:
    result = compiled(scripted_lm(reasoner), max_tokens=1).result
    assert result is not None
    assert [trial.origin for trial in result.trials] == ["student"]
    assert "`max_tokens` is 1" in result.stopped
    result = compiled(scripted_lm(reasoner), time_limit=1e-9).result
    assert result is not None
    assert "`time_limit`" in result.stopped


def test_front_and_best_for() -> None:
    result = compiled(scripted_lm(reasoner), pareto=True, trials=7).result
    assert result is not None
    whole = [t for t in result.trials if t.state == "measured"]
    assert result.front[0].total == min(t.total for t in whole)
    assert max(t.pooled for t in result.front) == max(t.pooled for t in whole)
    cheap: Any = result.best_for(total=int(result.front[0].total) + 1)
    assert cheap.schedule == result.front[0].schedule
    with pytest.raises(ConfigError, match="the least that was measured"):
        result.best_for(sequential=1)


def test_the_saved_program_has_the_points_of_the_front(tmp_path: Path) -> None:
    result = compiled(scripted_lm(reasoner), pareto=True, trials=7, run_dir=tmp_path).result
    assert result is not None
    assert len(result.front) > 1
    best = max(result.front, key=lambda trial: trial.pooled)
    loaded = {name: load(tmp_path / "best.json", point=name) for name in ("fast", "balanced", "best")}
    schedules: dict[str, Any] = {name: program.schedule for name, program in loaded.items()}  # type: ignore[union-attr]
    assert (schedules["fast"], schedules["best"]) == (result.front[0].schedule, best.schedule)
    assert schedules["balanced"] in [trial.schedule for trial in result.front]
    figures = loaded["fast"].artifact["points"]  # type: ignore[union-attr]
    assert figures["best"]["score"] == best.pooled
    assert figures["fast"]["total"] == result.front[0].total


def test_instruction_candidates_are_tried_and_installed() -> None:
    def obedient(request: ScriptedRequest) -> str:
        good = "PLEASE" in request.system
        name = re.search(r"Question: q(\d+)", request.user)
        assert name is not None
        return f"Answer: {'a' + name[1] if good else 'w'}"

    space = SMALL.narrow(rounds=(1,)).extend(instructions={"draft": ("PLEASE solve it.",)})
    result = compiled(scripted_lm(obedient), space=space).result
    assert result is not None
    assert result.best.instructions == {"draft": "PLEASE solve it."}
    assert result.confirmation.winner.score == 1.0
    assert result.program.draft.signature.instructions == "PLEASE solve it."  # type: ignore[attr-defined]


class Nested(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = {"solver": PDR("question -> answer", Schedule(widths=(2, 1), draft_tokens=60, kappa=200))}

    def forward(self, question: str) -> dspy.Prediction:
        return self.inner["solver"](question=question)

    async def aforward(self, question: str) -> dspy.Prediction:
        return await self.inner["solver"].acall(question=question)


def test_an_operator_inside_a_module_is_tuned() -> None:
    program = Nested()
    result = compiled(scripted_lm(reasoner), program, trials=6).result
    assert result is not None
    best: Any = result.best_for()
    assert isinstance(best, Nested)
    assert best.inner["solver"].schedule == result.best.schedule
    assert program.inner["solver"].schedule.widths == (2, 1)
    assert all(t.calls > 0 for t in result.trials if t.state == "measured")


def test_a_compiled_program_is_copied_without_its_rows() -> None:
    result = compiled(scripted_lm(reasoner), trials=2).result
    assert result is not None
    program: Any = result.program
    assert copy.deepcopy(program).confirmation is program.confirmation


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trials": 0}, "trials=0"),
        ({"max_total": 0}, "max_total=0"),
        ({"sampler": "grid"}, "sampler='grid'"),
        ({"time_limit": 0}, "time_limit=0"),
        ({"time_limit": math.nan}, "time_limit=nan"),
        ({"time_limit": "5"}, "time_limit='5'"),
        ({"trials": 2.0}, "`PDROptimizer(trials=2.0)` must be a whole number of at least 1"),
        ({"trials": "3"}, "trials='3'"),
        ({"trials": True}, "trials=True"),
        ({"seed": None}, "`PDROptimizer(seed=None)` must be a whole number"),
        ({"seed": 0.5}, "seed=0.5"),
        ({"prompts": -1}, "prompts=-1"),
        ({"prompts": None}, "prompts=None"),
        ({"cohort": None}, "cohort=None"),
        ({"repeats": 1.0}, "repeats=1.0"),
        ({"finalists": 0}, "finalists=0"),
        ({"max_tokens": 1e6}, "max_tokens=1000000.0"),
        ({"max_sequential": 10.0}, "max_sequential=10.0"),
        ({"max_in_flight": "8"}, "max_in_flight='8'"),
        ({"space": {"width": (1,)}}, "width"),
        ({"space": 8}, "space=8"),
        ({"study": None}, "study=None"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        PDROptimizer(Exact(), **settings)
    for verifier in ("exact", Exact):  # before all else
        with pytest.raises(ConfigError, match="must be a verifier"):
            PDROptimizer(verifier, **settings)  # type: ignore[arg-type]


def test_whole_numbers_may_be_of_any_type() -> None:
    made = PDROptimizer(Exact(), trials=np.int64(3), seed=np.int32(4), max_total=np.int64(5))  # type: ignore[arg-type]
    assert [type(one) for one in (made.options.trials, made.settings.seed, made.settings.limits.total)] == [
        int,
        int,
        int,
    ]


@pytest.mark.parametrize(("where", "file"), [("storage", "*.jsonl"), ("run_dir", "journal.jsonl")])
def test_a_search_may_lie_at_home(where: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    here: dict[str, Any] = {where: "~/x"}
    compiled(scripted_lm(reasoner), trials=2, **here)
    assert list((tmp_path / "x").rglob(file))
    assert not (tmp_path / "~").exists()
    lm = scripted_lm(reasoner)
    compiled(lm, trials=2, **dict[str, Any]({where: Path("~/x")}))
    assert lm.served.calls == 0


@pytest.mark.parametrize(
    ("before", "after", "differs"),
    [
        ({}, {"seed": 1}, "`seed` was 0 and is now 1"),
        ({"space": SMALL}, {"space": SMALL.model_copy(update={"k": (1, 2, 3)})}, "`space.k` was"),
        ({"space": SMALL}, {"space": SMALL.model_copy(update={"kappa": (201,)})}, "`space.kappa` was"),
        ({"max_total": 500}, {"max_total": 600}, "`max_total` was 500 and is now 600"),
        ({"prompts": 0}, {"prompts": 1}, "`prompts` was 0 and is now 1"),
    ],
)
def test_what_differs_from_the_search_that_is_there_is_shown(
    tmp_path: Path, before: dict[str, Any], after: dict[str, Any], differs: str
) -> None:
    compiled(scripted_lm(reasoner), trials=1, run_dir=tmp_path, **before)
    lm = scripted_lm(reasoner)
    with pytest.raises(StoreError, match=re.escape(differs)) as raised:
        compiled(lm, trials=1, run_dir=tmp_path, **{**before, **after})
    assert lm.served.calls == 0
    assert len(str(raised.value)) < 500


def test_a_long_difference_is_shown_where_it_is(tmp_path: Path) -> None:
    texts = [f"Think about it for a while, {'and then a while longer, ' * 30}{end}" for end in ("stop.", "go on.")]
    spaces = [SMALL.model_copy(update={"instructions": {"draft": (text,)}}) for text in texts]
    compiled(scripted_lm(reasoner), trials=1, run_dir=tmp_path, space=spaces[0])
    with pytest.raises(StoreError, match=r"`space\.instructions\.draft` was .*stop\..* and is now .*go on\.") as raised:
        compiled(scripted_lm(reasoner), trials=1, run_dir=tmp_path, space=spaces[1])
    assert len(str(raised.value)) < 700


def test_measurements_without_the_description_of_their_search_are_refused(tmp_path: Path) -> None:
    compiled(scripted_lm(reasoner), trials=2, run_dir=tmp_path)
    journal = tmp_path / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")
    assert lines[0].startswith(b'{"journal": 1, "search": {')
    lines[0] = lines[0].replace(b'"search"', b'"s3arch"')
    journal.write_bytes(b"\n".join(lines))
    lm = scripted_lm(reasoner)
    with pytest.raises(StoreError, match=r"cannot be checked which search its folder holds; remove it to begin again"):
        compiled(lm, trials=2, run_dir=tmp_path, seed=5)
    journal.unlink()
    compiled(lm, trials=2, run_dir=tmp_path)
    assert lm.served.calls == 0


@pytest.mark.parametrize("sampler", ["nsga2", "random"])
def test_other_samplers(sampler: Any) -> None:
    result = compiled(scripted_lm(reasoner), sampler=sampler, trials=7, seed=random.Random(1).randrange(9)).result
    assert result is not None
    assert len({t.candidate.key for t in result.trials}) == 7


@pytest.fixture
def _bindable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scripted model that may be bound to predictors: DSPy asks every bound model for its state."""
    monkeypatch.setattr(ScriptedLM, "dump_state", lambda lm: {"model": lm.model})


@pytest.mark.usefixtures("_bindable")
def test_predictors_that_a_schedule_adds_use_the_model_of_the_student() -> None:
    bound = scripted_lm(reasoner, model="scripted/bound")
    program = student()
    program.set_lm(bound)
    other = scripted_lm(reasoner, model="scripted/other")
    result = compiled(other, program).result
    assert result is not None
    assert other.served.calls == 0
    assert {call.model for row in result.confirmation.winner.rows for call in row.calls} == {"scripted/bound"}


@pytest.mark.usefixtures("_bindable")
def test_composes_with_other_optimizers() -> None:
    both = BetterTogether(
        metric=Exact(),
        few=LabeledFewShot(k=2),
        schedule=PDROptimizer(Exact(), space=SMALL, trials=4, confirm_repeats=1),
    )
    lm = scripted_lm(reasoner)
    program: Any = student()
    program.set_lm(lm)
    with dspy.context(lm=lm):
        program = both.compile(program, trainset=questions(8), valset=questions(8, 50), strategy="few -> schedule")
    assert program.schedule in SMALL
    assert not program.flag_compilation_error_occurred
    assert [entry["strategy"] for entry in program.candidate_programs].count("few -> schedule") == 1


def test_examples_need_no_marked_inputs_for_an_operator() -> None:
    plain = [dspy.Example(id=f"q{i}", question=f"q{i}", answer=f"a{i}") for i in range(12)]
    optimizer = PDROptimizer(Exact(), space=SMALL, trials=2, confirm_repeats=1, max_total=100_000)
    with dspy.context(lm=scripted_lm(reasoner)):
        optimizer.compile(student(), trainset=plain)
    assert optimizer.result is not None
    assert optimizer.result.confirmation.untouched


def test_compiling_again_does_not_carry_the_programs_of_the_first_time() -> None:
    first = compiled(scripted_lm(reasoner), trials=3).result
    assert first is not None
    again = compiled(scripted_lm(reasoner), first.program, trials=3).result
    assert again is not None
    program: Any = again.program
    assert len(program.candidate_programs) == 3
    assert not any(hasattr(entry["program"], "candidate_programs") for entry in program.candidate_programs)
    assert hasattr(first.program, "candidate_programs")
    assert program.trial_logs[0]["origin"] == "student"


class Scored(InTurn):
    """Two operators under different schedules, and a module whose name a search would like to have."""

    def __init__(self) -> None:
        super().__init__(another())
        self.score = dspy.Predict("answer -> score")


def test_operators_that_differ_are_not_taken_for_a_candidate() -> None:
    result = compiled(scripted_lm(reasoner), Scored(), trials=6).result
    assert result is not None
    assert isinstance(result.program.score, dspy.Predict)  # type: ignore[attr-defined]
    student_, single = result.trials[:2]
    assert (student_.origin, single.origin) == ("student", "LongCoT")
    assert student_.schedule == single.schedule
    assert single.state == "measured"
    assert (student_.calls, single.calls) == (4.0, 2.0)


def test_programs_over_the_limits_come_last_among_the_candidates() -> None:
    free = compiled(scripted_lm(reasoner), count=30, trials=9).result
    assert free is not None
    limit = int(min(t.total for t in free.trials) * 1.05)  # only one pass keeps it; the baselines are measured anyway
    result = compiled(scripted_lm(reasoner), PDR("question -> answer", free.best.schedule), max_total=limit).result
    assert result is not None
    feasible = [entry["feasible"] for entry in result.program.candidate_programs]  # type: ignore[attr-defined]
    assert feasible == sorted(feasible, reverse=True)
    assert set(feasible) == {True, False}


def test_a_storage_folder_may_be_apart_from_the_results(tmp_path: Path) -> None:
    result = compiled(scripted_lm(reasoner), storage=tmp_path / "study", run_dir=tmp_path / "run", trials=2).result
    assert result is not None
    assert (tmp_path / "study" / "study.journal").exists()
    assert (tmp_path / "run" / "best.json").exists()
    assert list((tmp_path / "study" / "rollouts").glob("*.jsonl")), "where other searches find the calls"
    assert (tmp_path / "run" / "journal.jsonl").exists()
    with pytest.raises(StoreError, match="`seed` was 0 and is now 1; use another `run_dir`"):
        compiled(scripted_lm(reasoner), storage=tmp_path / "study", run_dir=tmp_path / "run", seed=1)
    with pytest.raises(StoreError, match="is of another search; use another `study`"):
        compiled(scripted_lm(reasoner), storage=tmp_path / "study", run_dir=tmp_path / "other", seed=1)
