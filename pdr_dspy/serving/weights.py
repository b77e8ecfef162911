"""Weights for the embedded engine: sources of the catalogue's files.

The sources are tried in order: the given path or the local cache, the Hugging Face hub, the mirror that PDR_DSPY_MIRROR
names, or any given `Source`. A file from any source must have the catalogue's sha256 before it is used. The cache is in
the user's cache folder, or in the folder named by PDR_DSPY_CACHE.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pdr_dspy.errors import ConfigError, WeightsError
from pdr_dspy.serving.catalogue import CATALOGUE, DEFAULT, Weights

__all__ = [
    "CATALOGUE",
    "DEFAULT",
    "SOURCES",
    "Hub",
    "Mirror",
    "Progress",
    "Source",
    "Weights",
    "cache_folder",
    "digest_of",
    "locate",
    "need_space",
]

SOURCES = ("local", "hub", "mirror")
"""Names of the built-in sources, in the order in which they are tried."""
MIRROR = "PDR_DSPY_MIRROR"
"""The environment variable with the address of a mirror, see `Mirror`."""
_CHUNK = 1 << 20
_HUB_PATIENCE = 5.0  # seconds; without a network the hub client itself retries for half a minute
_MIRROR_PATIENCE = 30.0  # seconds without a byte


class Progress(Protocol):
    """The progress callback of locate(); called often, and from another thread during a download."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show `done` of `total` bytes of `what`."""
        ...


class Source(Protocol):
    """A source of the catalogue's files."""

    @property
    def name(self) -> str:
        """The source's name in messages."""
        ...

    def __call__(self, entry: Weights, partial: Path, show: Progress) -> None:
        """Write the file of an entry to `partial`.

        An existing file is the beginning of an interrupted download; resume it, or overwrite it. The source may keep
        temporary files beside it, with the same name and another suffix. The caller checks the sha256. Raises
        WeightsError if the source cannot provide the file.
        """
        ...


def locate(
    name_or_path: str | os.PathLike[str],
    *,
    sources: Sequence[str | Source] = SOURCES,
    progress: Progress | None = None,
) -> Path:
    """Return the path of a GGUF file: a given file, or a catalogue entry, downloaded and verified if necessary.

    Args:
        name_or_path: a name of the catalogue, or the path of a file.
        sources: the sources to try, in this order: names of `SOURCES`, or `Source` objects.
        progress: called with the progress; None draws a bar on the terminal.

    An interrupted download is resumed. Raises ConfigError for an unknown source or name, WeightsError, with each
    source's reason, if no source has the file.
    """
    for source in sources:
        if not callable(source) and source not in SOURCES:
            raise ConfigError(
                f"`locate(sources=...)` must be names of {', '.join(SOURCES)}, or `Source` objects; got {source!r}"
            )
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
        if "local" in sources and _complete(target, entry):  # another process may have fetched it meanwhile
            return target
        for source in sources:
            if source == "local":
                failures.append(f"local: {target} does not exist")
                continue
            name = source if isinstance(source, str) else source.name
            try:
                fetch = _named(source) if isinstance(source, str) else source
                _fetch(fetch, entry, target, show)
            except WeightsError as error:
                failures.append(f"{name}: {error}")
            else:
                return target
    raise WeightsError(f"no source has the weights {entry.name!r}:\n" + "\n".join(f"  - {text}" for text in failures))


def cache_folder() -> Path:
    """Return the folder of downloaded weights, which may not exist yet."""
    named = os.environ.get("PDR_DSPY_CACHE")
    if named:
        return Path(named) / "weights"
    import platformdirs

    return Path(platformdirs.user_cache_dir("pdr-dspy", appauthor=False)) / "weights"


def need_space(folder: Path, size: int) -> None:
    """Raise WeightsError if a folder's disk has less than `size` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise WeightsError(
            f"{folder} has {free / 1e6:.0f} MB free and needs {size / 1e6:.0f} MB: free some space, or name another "
            "folder in PDR_DSPY_CACHE"
        )


def digest_of(path: Path, show: Callable[[int], None] = lambda done: None) -> str:
    """The sha256 of a file, in hex; `show` is called with the number of bytes read."""
    digest = hashlib.sha256()
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            show(done)
    return digest.hexdigest()


@dataclass(frozen=True)
class Hub:
    """The Hugging Face hub, or the server that HF_ENDPOINT names, with the cache and settings of its client."""

    name: str = "hub"

    def __call__(self, entry: Weights, partial: Path, show: Progress) -> None:
        """See `Source`."""
        try:
            from huggingface_hub import constants, hf_hub_download
        except ImportError:
            raise WeightsError('huggingface_hub is not installed: pip install "pdr-dspy[embedded]"') from None
        if constants.HF_HUB_OFFLINE:
            raise WeightsError("HF_HUB_OFFLINE is set")
        show(f"{entry.name}: asking the hub", 0, entry.size)
        try:
            request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
            with urllib.request.urlopen(request, timeout=_HUB_PATIENCE):
                pass
        except urllib.error.HTTPError:
            pass  # any HTTP status shows that the hub is reachable
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise WeightsError(f"{constants.ENDPOINT} cannot be reached ({reason})") from error
        need_space(partial.parent, entry.size)
        try:
            path = Path(hf_hub_download(entry.hub_repo, entry.hub_file, revision=entry.hub_revision, etag_timeout=5))
        except Exception as error:  # its errors share no base class; the next source may work
            first = str(error).strip().partition("\n")[0]
            raise WeightsError(f"{entry.hub_repo}/{entry.hub_file}: {type(error).__name__}: {first}") from error
        partial.unlink(missing_ok=True)
        try:
            os.link(path.resolve(), partial)
        except OSError:  # another file system
            shutil.copyfile(path, partial)


@dataclass(frozen=True)
class Mirror:
    """A web server, or a folder, with the files.

    Args:
        url: an address that begins with https://, http:// or file://. `{repo}`, `{revision}` and `{file}` in it are
            replaced by those of the hub; without them the file's name is appended: `https://models.example.org/gguf`
            becomes `https://models.example.org/gguf/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf`.

    Raises ConfigError for any other address.
    """

    url: str
    name: str = "mirror"

    def __post_init__(self) -> None:
        if not self.url.startswith(("https://", "http://", "file://")):
            raise ConfigError(f"`Mirror(url={self.url!r})` must begin with https://, http:// or file://")

    def address(self, entry: Weights) -> str:
        """The URL of an entry's file."""
        if "{file}" not in self.url:
            return f"{self.url.rstrip('/')}/{entry.hub_file}"
        parts = {"{repo}": entry.hub_repo, "{revision}": entry.hub_revision, "{file}": entry.hub_file}
        address = self.url
        for place, value in parts.items():
            address = address.replace(place, value)
        return address

    def __call__(self, entry: Weights, partial: Path, show: Progress) -> None:
        """See `Source`. An interrupted download is resumed if the server supports ranges."""
        address = self.address(entry)
        begun = partial.stat().st_size if partial.exists() else 0
        begun = begun if begun < entry.size else 0
        headers = {"Range": f"bytes={begun}-"} if begun else {}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(address, headers=headers), timeout=_MIRROR_PATIENCE
            ) as answer:
                size = begun if getattr(answer, "status", 200) == 206 else 0
                need_space(partial.parent, entry.size - size)
                with partial.open("r+b" if size else "wb") as out:
                    out.seek(size)
                    out.truncate()
                    while chunk := answer.read(_CHUNK):
                        size += len(chunk)
                        if size > entry.size:
                            raise WeightsError(f"{address} is longer than the {entry.size} bytes of the catalogue")
                        out.write(chunk)
                        show(f"{entry.name}: from the mirror", size, entry.size)
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            raise WeightsError(f"{address}: {getattr(error, 'reason', None) or error}") from error
        if size < entry.size:
            raise WeightsError(f"{address} ended after {size} of {entry.size} bytes; try again to resume it")


def _named(source: str) -> Source:
    if source == "hub":
        return Hub()
    url = os.environ.get(MIRROR)
    if not url:
        raise WeightsError(f"the environment variable {MIRROR} is not set; it may be a URL with {{file}}")
    return Mirror(url)


def _fetch(source: Source, entry: Weights, target: Path, show: Progress) -> None:
    """Fetch the file of an entry from one source, verify its sha256, then rename it to `target`."""
    partial = target.with_suffix(".partial")
    if partial.exists() and partial.stat().st_nlink > 1:  # a hard link to the hub client's file, from a killed run
        partial.unlink()
    source(entry, partial, show)
    try:
        _verify(partial, entry, f"the file of the source {source.name!r}", show)
    except WeightsError:
        _tidy(target)
        raise
    os.replace(partial, target)
    _sync(target.parent)
    _tidy(target)


def _tidy(target: Path) -> None:
    """Remove temporary files of sources beside a file."""
    for path in target.parent.glob(f"{target.stem}.*"):
        if path.suffix not in (target.suffix, ".lock"):
            path.unlink()


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
    # Only verified files get this name; the size detects a file that was truncated since.
    return path.is_file() and path.stat().st_size == entry.size


def _verify(path: Path, entry: Weights, what: str, show: Progress) -> None:
    size = path.stat().st_size
    digest = digest_of(path, lambda done: show(f"{entry.name}: verifying", done, size)) if size == entry.size else None
    if digest != entry.sha256:
        found = f"sha256 {digest}" if digest else f"{size} bytes"
        wanted = f"sha256 {entry.sha256}" if digest else f"{entry.size} bytes"
        raise WeightsError(f"{what} is not the file of the catalogue and was refused: it has {found}, not {wanted}")


def _sync(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every system can open a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock, so that two processes never write one file. The system releases it after a kill."""
    with path.open("w") as file:
        try:
            import fcntl
        except ImportError:  # Windows: concurrent downloads then end in a sha256 error
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
