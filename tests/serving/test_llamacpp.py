from __future__ import annotations

import asyncio
import http.client
import os
import random
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy import lm15
from dspy.utils.exceptions import ContextWindowExceededError

from optimize.wheel_weights import SOURCES
from pdr_dspy.errors import ConfigError, ServerStartError
from pdr_dspy.serving import EndpointLM, LlamaCppServer, connect
from tests.support.mock_server import MockServer

pytestmark = pytest.mark.slow

MODEL = "smollm2-135m"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"slots": 0}, "slots=0"),
        ({"slots": 1000}, "at most 256"),
        ({"context": 100_000}, "32768 tokens"),
        ({"threads": -1}, "threads=-1"),
    ],
)
def test_bad_arguments_are_refused_early(arguments: dict[str, int], message: str):
    with pytest.raises(ConfigError, match=message):
        LlamaCppServer("qwen2.5-coder-0.5b", **arguments)  # type: ignore[arg-type]


def test_needs_to_be_started():
    server = LlamaCppServer(MODEL, sources=SOURCES)
    with pytest.raises(ConfigError, match="not running"):
        _ = server.api_base
    server.stop()


def test_a_file_that_is_no_model_shows_the_servers_log(tmp_path: Path):
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + b"\xff" * 100)
    with pytest.raises(ServerStartError, match=r"llama\.cpp server exited with status(.|\n)*broken\.gguf"):
        LlamaCppServer(path).start()


def test_a_port_in_use_is_reported(tmp_path: Path):
    path = tmp_path / "never_read.gguf"
    path.write_bytes(b"GGUF")
    with MockServer() as other, pytest.raises(ServerStartError, match=f"`port={other.port}` cannot be used"):
        LlamaCppServer(path, port=other.port).start()


@pytest.fixture(scope="module")
def server() -> Iterator[LlamaCppServer]:
    with LlamaCppServer(MODEL, slots=4, context=256, sources=SOURCES) as running:
        yield running


def metrics(server: LlamaCppServer) -> dict[str, float]:
    connection = http.client.HTTPConnection("127.0.0.1", int(server.api_base.split(":")[2].split("/")[0]))
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    rows = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return {name.removeprefix("llamacpp:"): float(value) for name, value in rows}


def request(lm: EndpointLM, seed: int, size: int = 1, text: str = "Name an animal.") -> lm15.Request:
    config = lm15.Config(
        seed=seed, max_tokens=12, temperature=0.9, extensions={"pdr_siblings": {"group": "g", "size": size}}
    )
    return lm15.Request(model=lm.model, messages=(lm15.Message.user(text),), config=config)


def send(lm: EndpointLM, *requests: lm15.Request) -> list[lm15.Response]:
    async def main() -> list[lm15.Response]:
        return await asyncio.gather(*(lm.acall(each) for each in requests))  # type: ignore[return-value]

    return asyncio.run(main())


@pytest.mark.model
@pytest.mark.xdist_group("llamacpp")
class TestServing:
    def test_an_lm_of_the_server(self, server: LlamaCppServer):
        lm = server.connect(temperature=0.0, max_tokens=8)
        lm.check_sync()
        about = lm.capabilities_sync()
        assert about.siblings
        assert about.context_length == 256
        assert lm.served_model == MODEL
        assert "b179c9523d0e" in lm.model  # the weights, not the port: the same after a restart
        with dspy.context(lm=lm):
            assert lm("Say hello.") == lm("Say hello.")
        counts = asyncio.run(lm.count_tokens(["hello", "hello hello hello", ""]))
        assert counts is not None
        assert counts[0] >= 1
        assert counts[1] > counts[0]
        assert counts[2] == 0

    def test_usage_is_what_the_server_served(self, server: LlamaCppServer):
        lm = server.connect()
        before = metrics(server)
        # Wider than the slots: sent in parts, not refused.
        responses = send(lm, *(request(lm, seed, 6, "Tell me about rivers.") for seed in range(6)))
        responses += send(lm, request(lm, 99))
        served = {name: value - before[name] for name, value in metrics(server).items()}
        usages = [response.usage for response in responses]
        assert sum(usage.output_tokens or 0 for usage in usages) == served["tokens_predicted_total"]
        assert sum(usage.input_tokens or 0 for usage in usages) == (
            served["prompt_tokens_total"] + served["prompt_tokens_cached_total"]
        )
        assert all(usage.output_tokens for usage in usages)

    def test_a_sibling_starts_as_the_single_request_with_its_seed(self, server: LlamaCppServer):
        lm = server.connect()
        together = send(lm, *(request(lm, seed, 4) for seed in range(40, 44)))
        for seed, sibling in zip(range(40, 44), together, strict=True):
            (single,) = send(lm, request(lm, seed))
            # The sampling seeds are equal; rounding in another batch may tip a later token.
            assert (single.text or "")[:2] == (sibling.text or "")[:2]
        assert len({response.text for response in together}) > 1

    def test_a_prompt_above_the_context_is_refused(self, server: LlamaCppServer):
        lm = server.connect()
        with pytest.raises(ContextWindowExceededError, match="256 tokens"):
            send(lm, request(lm, 1, text="word " * 400))

    def test_a_schema_is_kept(self, server: LlamaCppServer):
        lm = server.connect()
        schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}, "required": ["n"]}
        config = lm15.Config(
            max_tokens=30, temperature=0.0, response_format={"type": "json_schema", "schema": schema, "name": "out"}
        )
        message = lm15.Message.user("Give me a number.")
        (response,) = send(lm, lm15.Request(model=lm.model, messages=(message,), config=config))
        assert (response.text or "").strip().startswith("{")


@pytest.mark.model
@pytest.mark.xdist_group("llamacpp")
def test_dies_with_a_parent_that_is_killed():
    script = (
        "import sys\n"
        "from optimize.wheel_weights import SOURCES\n"
        "from pdr_dspy.serving import LlamaCppServer\n"
        f"server = LlamaCppServer({MODEL!r}, slots=1, context=64, sources=SOURCES).start()\n"
        "print(server.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    group = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    parent.stdin.close()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the server outlived its parent")


def test_a_second_start_keeps_the_server(server: LlamaCppServer):
    pid = server.pid
    assert pid is not None
    assert server.start() is server
    assert server.pid == pid
    assert server.lm is server.lm


def lora_file(path: Path, scale: float) -> Path:
    """A LoRA adapter for smollm2-135m of random weights, as GGUF 3: each layer's last matrix, rank 4."""
    source = random.Random(0)

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    pairs = [("general.architecture", "llama"), ("general.type", "adapter"), ("adapter.type", "lora")]
    head = b"".join(text(key) + struct.pack("<I", 8) + text(value) for key, value in pairs)
    head += text("adapter.lora.alpha") + struct.pack("<If", 6, 8.0)
    infos, data = b"", b""
    for layer in range(30):
        for name, dims in (("lora_a", (1536, 4)), ("lora_b", (4, 576))):
            infos += text(f"blk.{layer}.ffn_down.weight.{name}") + struct.pack("<IQQIQ", 2, *dims, 0, len(data))
            count = dims[0] * dims[1]
            data += struct.pack(f"<{count}f", *(scale * source.gauss(0, 1) for _ in range(count)))
    written = b"GGUF" + struct.pack("<IQQ", 3, 60, len(pairs) + 1) + head + infos
    path.write_bytes(written + bytes(-len(written) % 32) + data)
    return path


@pytest.mark.model
@pytest.mark.xdist_group("llamacpp")
def test_an_adapter_is_applied_to_the_requests_that_name_it(server: LlamaCppServer, tmp_path: Path):
    files = [lora_file(tmp_path / "none.gguf", 0.0), lora_file(tmp_path / "picker.gguf", 0.3)]
    sampling: dict[str, Any] = {"temperature": 0.0, "max_tokens": 8}
    plain = server.connect(**sampling)
    expected, identity = plain("Name three colours."), plain.capabilities_sync().identity
    with LlamaCppServer(MODEL, slots=4, context=256, sources=SOURCES, adapters=files) as adapted:
        base = adapted.connect(**sampling)
        assert base.capabilities_sync().identity == identity
        assert base("Name three colours.") == expected
        assert base.with_adapter("none")("Name three colours.") == expected
        picker = base.with_adapter("picker")
        own = picker("Name three colours.")
        assert own != expected
        assert base("Name three colours.") == expected, "also after a request with the adapter"
        far = connect(MODEL, adapted.api_base, adapter="picker", **sampling)
        far.check_sync()
        assert far("Name three colours.") == own
        assert re.fullmatch(rf"endpoint/{MODEL}:picker:b179c9523d0e\+\w{{12}}", far.capabilities_sync().identity)
        siblings = send(picker, request(picker, 3, 2), request(picker, 4, 2))
        assert len(siblings) == 2
        far.close()
