"""The folder of a training run: what was written to its end, and what another run may take."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from safetensors.numpy import save_file

from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.training.run_folder import check_folder, check_steps, last_checkpoint

SHARED = ("trainer_state.json", "optimizer.pt", "rng_state.pth", "adapter_model.safetensors")


def checkpoint(folder: Path, step: int) -> Path:
    """A whole one, of the files that are looked at."""
    made = folder / "checkpoints" / f"checkpoint-{step}"
    made.mkdir(parents=True)
    for name in ("optimizer.pt", "rng_state.pth"):
        with ZipFile(made / name, "w") as file:
            file.writestr("data", "0" * 100)
    save_file({"weight": np.zeros(100)}, made / "adapter_model.safetensors")
    (made / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return made


def test_the_last_checkpoint_is_that_of_the_last_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert last_checkpoint(tmp_path, tell=True) is None
    made = [checkpoint(tmp_path, step) for step in (2, 10, 9)]
    (tmp_path / "checkpoints" / "checkpoint-best").mkdir()
    (tmp_path / "checkpoints" / "checkpoint-99").write_text("a file")
    assert last_checkpoint(tmp_path, tell=True) == made[1]
    assert not caplog.records


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("kept", [0, 60, None])
def test_a_checkpoint_that_was_not_written_to_its_end_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, kept: int | None
) -> None:
    whole, part = checkpoint(tmp_path, 2), checkpoint(tmp_path, 4)
    if kept is None:
        (part / "trainer_state.json").unlink()
    else:
        (part / name).write_bytes((part / name).read_bytes()[: min(kept, (part / name).stat().st_size - 2)])
    assert last_checkpoint(tmp_path) == whole
    assert not caplog.records, "told once, by who asks for it"
    assert last_checkpoint(tmp_path, tell=True) == whole
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("pdr_dspy", logging.WARNING)
    assert f"{part} is not whole" in record.getMessage()
    assert ("trainer_state.json" if kept is None else name) in record.getMessage()
    assert "goes on from checkpoint-2" in record.getMessage()


def test_without_a_whole_checkpoint_the_training_begins_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2):
        (tmp_path / "checkpoints" / f"checkpoint-{step}").mkdir(parents=True)
    assert last_checkpoint(tmp_path, tell=True) is None
    (record,) = caplog.records
    assert "checkpoint-2, " in record.getMessage()
    assert "checkpoint-1 are not whole" in record.getMessage()
    assert "begins again" in record.getMessage()


def test_a_run_does_not_go_back(tmp_path: Path) -> None:
    check_steps(tmp_path, 1)
    checkpoint(tmp_path, 6)
    (tmp_path / "checkpoints" / "checkpoint-8").mkdir()
    check_steps(tmp_path, 6)
    with pytest.raises(
        ConfigError, match=r"`steps` is 5, and .* 6 steps already .*at least 6 steps, or another folder"
    ):
        check_steps(tmp_path, 5)


def about(**given: Any) -> dict[str, Any]:
    return {"kind": "imitation", "version": 1, "samples": "a", "config": {"model": "m"}, **given}


@pytest.mark.parametrize("left", [None, "log.jsonl", "result.json", "checkpoint"])
def test_a_folder_in_which_nothing_was_trained_takes_another_config(tmp_path: Path, left: str | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(about()))
    (tmp_path / "train.lock").touch()
    (tmp_path / "log.jsonl").touch()
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(StoreError, match="another kind of run"):
        check_folder(tmp_path, about(kind="training"))
    if left == "checkpoint":
        (tmp_path / "checkpoints" / "checkpoint-1").mkdir()
    elif left is not None:
        (tmp_path / left).write_text('{"step": 1}\n')
    check_folder(tmp_path, about())
    if left is None:
        check_folder(tmp_path, about(config={"model": "n"}, samples="b"))
        return
    with pytest.raises(StoreError, match="`model` was 'm'"):
        check_folder(tmp_path, about(config={"model": "n"}))
