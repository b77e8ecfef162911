"""Programs with a check that a file cannot hold: saving them warns of what loading them will need."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy.artifact import Point, load, save
from pdr_dspy.errors import ArtifactError
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.testing import scripted_lm
from pdr_dspy.verifiers.checks import (
    CHECKS,
    CalibratedCheck,
    Calibration,
    ConstraintCheck,
    JudgeCheck,
    RewardCheck,
    register_check,
)

CALIBRATION = Calibration(
    threshold=0.5,
    target=None,
    precision=0.9,
    precision_interval=(0.8, 1.0),
    recall=0.9,
    auc=0.9,
    auc_interval=(0.8, 1.0),
    roc=(),
    questions=9,
    answers=9,
    folds=3,
    seed=0,
)
NAME = "short-for-a-test"


def short(args: Any, pred: Any) -> float:
    return float(len(pred.answer) < 9)


def program(checks: Mapping[str, Any], used: str) -> Operator:
    return Operator("question -> answer", Schedule(widths=(2,), final="best", check=used), checks)


def plain(checks: Mapping[str, Any]) -> Operator:
    return Operator("question -> answer", Schedule(widths=(1,)), checks)


class Around(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = program({"check": short}, "check")


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]


@pytest.mark.parametrize("name", ["check", NAME])
@pytest.mark.parametrize(
    ("check", "kind"),
    [
        (short, "RewardCheck"),
        (CalibratedCheck(RewardCheck(short), CALIBRATION), "RewardCheck"),
        (JudgeCheck(lm=scripted_lm(str)), "JudgeCheck"),
    ],
    ids=["function", "calibrated", "model of its own"],
)
def test_saving_warns_of_a_check_that_loading_will_not_find(
    name: str, check: Any, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = program({name: check}, name)
    path = save(saved, tmp_path / "p.json")
    (said,) = warned(caplog)
    assert f"p.json uses the check {name!r} ({kind})" in said
    with pytest.raises(ArtifactError) as refused:
        load(path)
    assert said.endswith(str(refused.value))
    # both remedies that it names
    assert "`load(path, program=...)`" in said
    into = load(path, program=saved)
    assert isinstance(into, Operator)
    assert list(into.checks) == [name]
    assert f"register_check({name!r}, ...)" in said
    register_check(name, RewardCheck(short))
    try:
        assert isinstance(load(path), Operator)
    finally:
        CHECKS.remove(name)


def test_saving_warns_of_a_point_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(
        plain({"check": short}), tmp_path / "p.json", points={"best": Point(program({"check": short}, "check"))}
    )
    (said,) = warned(caplog)
    assert "uses the check 'check'" in said
    assert isinstance(load(path), Operator)
    with pytest.raises(ArtifactError, match="uses the check 'check'"):
        load(path, point="best")


def test_saving_does_not_warn_of_what_loads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    register_check(NAME, RewardCheck(short))
    try:
        for number, one in enumerate(
            [
                program({NAME: RewardCheck(short)}, NAME),
                program({"check": ConstraintCheck()}, "check"),
                program({"check": JudgeCheck()}, "check"),
                plain({"check": short}),
            ]
        ):
            assert isinstance(load(save(one, tmp_path / f"{number}.json")), Operator)
    finally:
        CHECKS.remove(NAME)
    assert warned(caplog) == []


def test_saving_does_not_warn_where_loading_takes_a_program_anyway(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(Around(), tmp_path / "module.json")
    save(program({"check": short}, "check"), tmp_path / "task.json", data={"name": "dev", "task": "mine"})
    assert warned(caplog) == []
