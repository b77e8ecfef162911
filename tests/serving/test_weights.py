"""Weights from a local file, the hub, a mirror, or a source of somebody's own; nothing is used with another sha256."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pdr_dspy.errors import ConfigError, WeightsError
from pdr_dspy.serving import Mirror, weights
from pdr_dspy.serving.weights import CATALOGUE, Progress, Weights, locate

WHOLE = b"GGUF" + b"a" * 1000 + b"b" * 504


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """A catalogue entry "tiny"; the hub is switched off."""
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
    monkeypatch.setenv("PDR_DSPY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PDR_DSPY_MIRROR", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return made


class Shop(ThreadingHTTPServer):
    """A web server with one file."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Counter)
        self.file = WHOLE
        self.ranges = True
        self.breaks_after: int | None = None
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Counter(BaseHTTPRequestHandler):
    server: Shop  # type: ignore[assignment]

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        if not self.path.endswith("/tiny.gguf"):
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        body = self.server.file[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.server.breaks_after is None else body[: self.server.breaks_after])

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def shop() -> Iterator[Shop]:
    with Shop() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def left_over(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "cache" / "weights").iterdir()} - {"tiny.lock"}


def test_the_catalogue_says_what_a_user_must_know() -> None:
    assert weights.DEFAULT in CATALOGUE
    for name, entry in CATALOGUE.items():
        assert entry.name == name
        assert len(entry.sha256) == 64
        assert entry.size > 1e7
        assert entry.chat_template
        assert entry.licence
        assert entry.unverified.endswith(".")
        assert entry.hub_file.endswith(".gguf")


def test_a_local_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(b"GGUF and more")
    assert locate(path) == path
    path.write_bytes(b"PK something else")
    with pytest.raises(WeightsError, match="not a GGUF file"):
        locate(path)


def test_an_unknown_name_lists_the_catalogue() -> None:
    with pytest.raises(ConfigError, match=r"'gpt-9'.*qwen2\.5-coder-0\.5b"):
        locate("gpt-9")
    with pytest.raises(ConfigError, match="must be names of local, hub, mirror, or `Source` objects; got 'ftp'"):
        locate("smollm2-135m", sources=("ftp",))


def test_failures_of_every_source_are_reported(entry: Weights) -> None:
    with pytest.raises(WeightsError) as caught:
        locate("tiny", progress=lambda what, done, total: None)
    lines = str(caught.value).splitlines()
    assert "local: " in lines[1]
    assert "hub: HF_HUB_OFFLINE is set" in lines[2]
    assert "mirror: the environment variable PDR_DSPY_MIRROR is not set" in lines[3]


def test_a_hub_file_with_other_bytes_is_refused(
    entry: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "blob"
    fake.write_bytes(b"z" * entry.size)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *args, **kwargs: str(fake))
    monkeypatch.setattr(weights.urllib.request, "urlopen", lambda *args, **kwargs: fake.open("rb"))
    with pytest.raises(WeightsError, match=r"hub: .*the source 'hub' is not the file of the catalogue"):
        locate("tiny", sources=("hub",))
    assert left_over(tmp_path) == set()
    fake.write_bytes(WHOLE)
    assert locate("tiny", sources=("hub",)).read_bytes() == WHOLE
    assert left_over(tmp_path) == {"tiny.gguf"}


def test_an_unreachable_hub_gives_way_to_the_next_source(
    entry: Weights, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(WeightsError, match=r"http://127\.0\.0\.1:1 cannot be reached"):
        locate("tiny", sources=("hub",))
    monkeypatch.setenv("PDR_DSPY_MIRROR", shop.url)
    assert locate("tiny").read_bytes() == WHOLE


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("{shop}/models/", "/models/tiny.gguf"),
        ("{shop}/{repo}/resolve/{revision}/{file}", "/nobody/nothing/resolve/main/tiny.gguf"),
    ],
)
def test_a_mirror_is_an_address_with_or_without_places(entry: Weights, shop: Shop, address: str, asked: str) -> None:
    url = address.replace("{shop}", shop.url)
    assert locate("tiny", sources=(Mirror(url),)).read_bytes() == WHOLE
    assert shop.asked == [(asked, None)]


def test_a_folder_is_a_mirror_too(entry: Weights, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(WHOLE)
    path = locate("tiny", sources=(Mirror(f"file://{tmp_path}"),))
    assert path.read_bytes() == WHOLE
    assert path.is_relative_to(tmp_path / "cache")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_continues_where_the_server_can(
    entry: Weights, shop: Shop, tmp_path: Path, ranges: bool
) -> None:
    shop.breaks_after, shop.ranges = 700, ranges
    with pytest.raises(WeightsError, match=r"tiny\.gguf.*(700 of 1508 bytes|IncompleteRead)"):
        locate("tiny", sources=(Mirror(shop.url),))
    assert left_over(tmp_path) == {"tiny.partial"}
    shop.breaks_after = None
    assert locate("tiny", sources=(Mirror(shop.url),)).read_bytes() == WHOLE
    assert shop.asked[1] == ("/tiny.gguf", "bytes=700-")
    assert left_over(tmp_path) == {"tiny.gguf"}


@pytest.mark.parametrize("file", [b"z" * len(WHOLE), WHOLE + b"more"])
def test_a_mirrors_other_bytes_are_refused_and_the_next_try_begins_anew(
    entry: Weights, shop: Shop, tmp_path: Path, file: bytes
) -> None:
    shop.file = file
    with pytest.raises(WeightsError, match=r"refused: it has sha256|longer than the 1508 bytes"):
        locate("tiny", sources=(Mirror(shop.url),))
    shop.file = WHOLE
    assert locate("tiny", sources=(Mirror(shop.url),)).read_bytes() == WHOLE
    assert shop.asked[-1][1] is None


def test_what_a_mirror_lacks_is_reported(entry: Weights, shop: Shop) -> None:
    with pytest.raises(WeightsError, match=r"mirror: http://.*/tiny\.gguf/gone: Not Found"):
        locate("tiny", sources=(Mirror(f"{shop.url}/{{file}}/gone"),))
    with pytest.raises(WeightsError, match=r"mirror: http://127\.0\.0\.1:1/tiny\.gguf: .*refused"):
        locate("tiny", sources=(Mirror("http://127.0.0.1:1"),))


@pytest.mark.parametrize("url", ["ftp://host/models", "/srv/models", "", "models.example.org"])
def test_what_is_no_address_is_refused(url: str, entry: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="must begin with https"):
        Mirror(url)


def test_a_file_of_the_hubs_cache_is_never_written_to(entry: Weights, shop: Shop, tmp_path: Path) -> None:
    """As a run leaves it that was killed between the hub's download and the check of its sum."""
    blob = tmp_path / "blob"
    blob.write_bytes(b"z" * 100)
    folder = tmp_path / "cache" / "weights"
    folder.mkdir(parents=True)
    os.link(blob, folder / "tiny.partial")
    assert locate("tiny", sources=(Mirror(shop.url),)).read_bytes() == WHOLE
    assert blob.read_bytes() == b"z" * 100


def test_a_source_of_somebodys_own_is_checked_like_the_others(entry: Weights, tmp_path: Path) -> None:
    class Tape:
        name = "tape"
        content = b"GGUF but other"

        def __call__(self, entry: Weights, partial: Path, show: Progress) -> None:
            partial.with_suffix(".reel").write_text("7")
            partial.write_bytes(self.content)

    tape = Tape()
    with pytest.raises(WeightsError, match=r"tape: the file of the source 'tape' is not the file of the catalogue"):
        locate("tiny", sources=("local", tape))
    tape.content = WHOLE
    assert locate("tiny", sources=("local", tape)).read_bytes() == WHOLE
    assert left_over(tmp_path) == {"tiny.gguf"}


def test_a_full_disk_is_reported_before_downloading(
    entry: Weights, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda path: usage(10, 10, 0))
    with pytest.raises(WeightsError, match=r"0 MB free .* PDR_DSPY_CACHE"):
        locate("tiny", sources=(Mirror(shop.url),))
    assert left_over(tmp_path) == set()


def test_an_unusable_cache_folder_is_reported(entry: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PDR_DSPY_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match=r"cannot be written .* PDR_DSPY_CACHE"):
        locate("tiny")
