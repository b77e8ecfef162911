"""Saved programs: the loaded one makes the same calls, and a bad file gets one clear sentence."""

from __future__ import annotations

import json
import stat
import typing
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest
from pydantic import BaseModel

from pdr_dspy.artifact import Point, load, read, save
from pdr_dspy.errors import ArtifactError, ConfigError, StoreError
from pdr_dspy.operators.nested import operators_in
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.operators.strategies import PDR, SR, LongCoT
from pdr_dspy.prompts.roles import Role
from pdr_dspy.prompts.types import describe_type, rebuild_type
from pdr_dspy.testing import ScriptedRequest, scripted_lm


class Task(dspy.Signature):
    """Sort the parcel."""

    parcel: str = dspy.InputField(desc="what is in it")
    weight: int | None = dspy.InputField(default=None)
    shelf: Literal["left", "right"] = dspy.OutputField(desc="where it goes")
    rooms: list[int] = dspy.OutputField()


class Place(BaseModel):
    row: int
    name: str


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Typed(dspy.Signature):
    """Find the place."""

    question: str = dspy.InputField()
    place: Place = dspy.OutputField()
    colour: Colour = dspy.OutputField()


class Around(dspy.Module):
    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.steps = [PDR("question -> answer", schedule)]
        self.check = dspy.Predict("answer -> verdict")

    def forward(self, question: str) -> dspy.Prediction:
        return self.steps[0](question=question)


def reply(request: ScriptedRequest) -> str:
    if "Candidates:" in request.user and "Selected:" in request.system:
        return f"Selected: [{1 + request.seed % 2}, {3 - request.seed % 2}]"
    return f"Work {request.seed % 7}.\nShelf: left\nRooms: [1, {request.seed % 5}]\nAnswer: {request.seed % 3}"


def calls(program: dspy.Module, **inputs: Any) -> list[Any]:
    lm = scripted_lm(reply)
    with dspy.context(lm=lm):
        program(**inputs)
    return sorted((asked.request for asked in lm.served.requests), key=repr)


TUNED = Schedule(widths=(4, 2, 1), distiller="topk_per_sample", k=2, kappa=300, draft_tokens=80, temperature=0.7)


@pytest.mark.parametrize(
    "program",
    [
        LongCoT(Task, draft_tokens=90),
        SR(Task, rounds=3, critique=True),
        PDR(Task, TUNED),
        PDR(Task, TUNED.replace(distiller="summary")),
    ],
    ids=lambda program: str(program.schedule),
)
def test_loaded_program_makes_the_same_calls(program: Operator, tmp_path: Path) -> None:
    program.draft.demos = [dspy.Example(parcel="box", weight=3, solution="Heavy.", shelf="left", rooms=[1, 2])]  # type: ignore[attr-defined]
    program.draft.signature = program.draft.signature.with_instructions("Sort with care.")  # type: ignore[attr-defined]
    loaded: Any = load(save(program, tmp_path / "best.json"))
    inputs = {"parcel": "a vase", "weight": 2, "seed": 5}
    assert calls(loaded, **inputs) == calls(program, **inputs)
    assert loaded.schedule == program.schedule
    assert type(loaded) is type(program)
    assert calls(loaded, parcel="no weight") == calls(program, parcel="no weight")


def test_string_signature_and_facts(tmp_path: Path) -> None:
    path = save(
        PDR("question, hints: list[str] -> answer: float"),
        tmp_path / "deep" / "program.json",
        name="mine",
        data="rg:sums",
        figures=[{"name": "tuned", "score": 0.5, "interval": (0.1, float("inf"))}],
        notes="a note",
    )
    loaded: Any = load(path)
    assert loaded.task.input_fields["hints"].annotation == list[str]
    assert loaded.artifact["name"] == "mine"
    assert loaded.artifact["data"] == {"name": "rg:sums"}
    assert loaded.artifact["figures"] == [{"name": "tuned", "score": 0.5, "interval": [0.1, None]}]
    assert loaded.artifact["versions"]["dspy"] == dspy.__version__


def test_no_key_and_no_address_is_written(tmp_path: Path) -> None:
    program = LongCoT("question -> answer")
    program.draft.lm = dspy.LM("openai/model", api_key="sk-secret", api_base="http://10.0.0.1/v1", top_k=7)  # type: ignore[attr-defined]
    text = save(program, tmp_path / "a.json").read_text()
    assert "sk-secret" not in text
    assert "10.0.0.1" not in text
    assert read(tmp_path / "a.json")["models"] == [{"model": "openai/model", "sampling": {"top_k": 7}}]
    assert load(tmp_path / "a.json").draft.lm is None  # type: ignore[attr-defined]


def test_own_types_are_loaded_into_a_program_that_has_them(tmp_path: Path) -> None:
    program = PDR(Typed, TUNED)
    demo = dspy.Example(question="q", solution="s", place=Place(row=1, name="x"), colour=Colour.BLUE)
    program.draft.demos = [demo]  # type: ignore[attr-defined]
    path = save(program, tmp_path / "typed.json")
    with pytest.raises(ArtifactError, match=r"field 'place' .* custom type, `Place`.*program="):
        load(path)
    student = LongCoT(Typed)
    loaded: Any = load(path, program=student)
    assert calls(loaded, question="where?") == calls(program, question="where?")
    assert student.schedule.widths == (1,)
    with pytest.raises(ArtifactError, match="outputs place"):
        load(path, program=LongCoT("question -> place"))


def test_operators_inside_a_module(tmp_path: Path) -> None:
    program = Around(TUNED)
    program.check.demos = [dspy.Example(answer="1", verdict="fine")]
    path = save(program, tmp_path / "around.json")
    with pytest.raises(ArtifactError, match=r"steps\[0\].*program="):
        load(path)
    loaded: Any = load(path, program=Around(Schedule()))
    assert operators_in(loaded).keys() == {"steps[0]"}
    assert loaded.steps[0].schedule == TUNED
    assert loaded.check.demos == [dspy.Example(answer="1", verdict="fine")]
    assert calls(loaded, question="why?") == calls(program, question="why?")
    with pytest.raises(ArtifactError, match="same shape"):
        load(path, program=PDR("question -> answer"))


def test_dspys_own_save_and_load_keep_the_schedule(tmp_path: Path) -> None:
    PDR("question -> answer", TUNED).save(tmp_path / "own.json")
    other = LongCoT("question -> answer")
    other.load(tmp_path / "own.json")
    assert other.schedule == TUNED
    Around(TUNED).save(tmp_path / "nested.json")
    nested = Around(TUNED.replace(widths=(2, 2, 1), kappa=100))
    nested.load(tmp_path / "nested.json")
    assert nested.steps[0].schedule == TUNED


@pytest.mark.slow
def test_a_nested_load_into_other_roles_says_what_to_do(tmp_path: Path) -> None:
    plain = Schedule(widths=(2, 1), distiller="random_k")
    for saved, fresh in ((TUNED, plain), (plain, TUNED), (plain.replace(widths=(1,)), plain)):
        Around(saved).save(tmp_path / "nested.json")
        other = Around(fresh)
        before = other.dump_state()
        with pytest.raises(ConfigError, match=r"(?s)calls draft.*with_schedule.*pdr_dspy\.load") as raised:
            other.load(tmp_path / "nested.json")
        assert str(saved) in str(raised.value)
        assert other.dump_state() == before
        other.steps[0] = other.steps[0].with_schedule(saved)
        other.load(tmp_path / "nested.json")
        assert other.dump_state() == Around(saved).dump_state()


@pytest.mark.parametrize(
    "kind",
    [
        str, int, float, bool, Any, list, dict, list[int], dict[str, list[float]], tuple[int, ...], tuple[str, int],
        Literal["a", "b", 3, True], int | None, list[Literal["x"]] | str,
    ],
)  # fmt: skip
def test_types_survive_as_data(kind: Any) -> None:
    described = json.loads(json.dumps(describe_type(kind)))
    assert rebuild_type(described) == kind


@pytest.mark.parametrize("described", [{"custom": "os.system"}, "os.system", {"list": "eval"}, {"union": []}, 3, None])
def test_unknown_types_are_refused(described: Any) -> None:
    with pytest.raises(ArtifactError, match="cannot be rebuilt"):
        rebuild_type(described)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save(PDR("question -> answer", TUNED), tmp_path / "program.json")


def test_truncated_foreign_newer_and_changed_files(saved: Path) -> None:
    text = saved.read_text()
    content = json.loads(text)
    bad = {
        "is empty": "",
        "is truncated or not JSON": text[: len(text) // 2],
        "is no saved program": '{"hello": 1}',
        "use `program.load": json.dumps({"metadata": {}, "predict": {}}),
        "newer pdr-dspy": json.dumps({**content, "version": 99}),
        "the version 'x'": json.dumps({**content, "version": "x"}),
        "does not match": text.replace("topk_per_sample", "summary"),
        "not JSON": "[" * 100_000,
    }
    for message, written in bad.items():
        saved.write_text(written)
        with pytest.raises(ArtifactError, match=message):
            load(saved)
    saved.write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(ArtifactError, match="not JSON"):
        load(saved)
    with pytest.raises(ArtifactError, match="cannot be read"):
        load(saved.parent / "missing.json")


def test_a_file_that_was_resigned_with_nonsense_is_refused(saved: Path) -> None:
    from pdr_dspy.artifact.file import digest

    content = json.loads(saved.read_text())
    content.pop("sha256")
    content["operators"][""]["schedule"]["widths"] = [4]
    content["sha256"] = digest(content)
    saved.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="cannot be used"):
        load(saved)


def test_a_large_file_is_refused_unread(saved: Path) -> None:
    with saved.open("r+b") as file:
        file.truncate(33 * 2**20)
    with pytest.raises(ArtifactError, match="at most"):
        load(saved)


def test_saving_is_whole_or_not_at_all(saved: Path) -> None:
    before = saved.read_bytes()
    program = PDR("question -> answer")
    program.draft.demos = [dspy.Example(question=object(), answer="x")]  # type: ignore[attr-defined]
    with pytest.raises(ArtifactError, match="JSON cannot"):
        save(program, saved)
    with pytest.raises(StoreError, match="cannot be written"):
        save(PDR("question -> answer"), saved / "below.json")
    with pytest.raises(ConfigError, match="no LongCoT, SR or PDR"):
        save(dspy.Predict("question -> answer"), saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    assert stat.S_ISREG(saved.stat().st_mode)


def test_a_bare_generic_is_described_as_one_that_no_file_can_hold() -> None:
    assert describe_type(typing.List) == {"custom": "List"}  # noqa: UP006


def pointed(folder: Path) -> Path:
    points = {
        "fast": Point(LongCoT(Task), {"score": 0.5, "sequential": 10.0, "total": 20.0}),
        "best": Point(
            PDR(Task, widths=(8, 1)).with_schedule(Schedule(widths=(8, 1)), instructions={"draft": "Think."})
        ),
    }
    return save(PDR(Task, widths=(4, 1)), folder / "p.json", points=points)


def test_other_settings_of_a_program_are_loaded_by_name(tmp_path: Path) -> None:
    path = pointed(tmp_path)
    assert load(path).schedule.widths == (4, 1)  # type: ignore[union-attr]
    fast, best = load(path, point="fast"), load(path, PDR(Task), point="best")
    assert isinstance(fast, Operator)
    assert isinstance(best, Operator)
    assert (fast.schedule.widths, best.schedule.widths) == ((1,), (8, 1))
    assert best.predictor(Role.DRAFT).signature.instructions == "Think."  # type: ignore[union-attr]
    assert fast.artifact["points"] == {  # type: ignore[union-attr]
        "fast": {"score": 0.5, "sequential": 10.0, "total": 20.0},
        "best": None,
    }
    with pytest.raises(ArtifactError, match="no point 'slow'; it has fast, best"):
        load(path, point="slow")
    plain = save(PDR(Task), tmp_path / "plain.json")
    assert "points" not in json.loads(plain.read_text())
    with pytest.raises(ArtifactError, match="it has none"):
        load(plain, point="fast")


@pytest.mark.parametrize("points", ["x", ["x"], {"fast": 1}, {"fast": {"operators": {}}}])
def test_points_that_are_none_are_refused(tmp_path: Path, points: Any) -> None:
    content = json.loads(pointed(tmp_path).read_text())
    del content["sha256"]
    content["points"] = points
    from pdr_dspy.artifact.file import digest

    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps({**content, "sha256": digest(content)}))
    with pytest.raises(ArtifactError, match=r"has no '(operators|predictors)'"):
        read(bad)
