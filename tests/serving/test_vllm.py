from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pdr_dspy.errors import ConfigError, MissingExtra, ServerStartError
from pdr_dspy.serving import VLLMServer, discover, vllm
from tests.support.mock_server import MockServer

FAKE = """
import http.server, json, os, sys, time
mode = os.environ.get("FAKE_VLLM", "serve")
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
print("fake vllm", *sys.argv[1:], flush=True)
if mode == "crash":
    sys.exit("ValueError: no such model")
if os.fork() == 0:  # a worker, which must not outlive the server
    open(os.environ["FAKE_PIDS"], "a").write(f"{os.getpid()}\\n")
    time.sleep(600)
open(os.environ["FAKE_PIDS"], "a").write(f"{os.getpid()}\\n")

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if mode == "serve" else 503)
        self.end_headers()
        row = {"id": options["--served-model-name"], "owned_by": "vllm", "max_model_len": 128}
        self.wfile.write(json.dumps({"data": [row]}).encode())

http.server.HTTPServer((options["--host"], int(options["--port"])), Handler).serve_forever()
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `vllm` whose server answers /health; returns the file where it writes its process ids."""
    package = tmp_path / "site" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").write_text("")
    (package / "api_server.py").write_text(FAKE)
    pids = tmp_path / "pids"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("FAKE_PIDS", str(pids))
    return pids


def started(pids: Path) -> list[int]:
    return [int(line) for line in pids.read_text().split()]


def gone(pids: list[int]) -> bool:
    """Whether the processes end; waits for it, bounded."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not any(_alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # it ended before or while it was read
        return False


def test_the_command_line_for_gpus(monkeypatch: pytest.MonkeyPatch, fake: Path):
    monkeypatch.setattr(vllm, "_has_gpu", lambda: True)
    server = VLLMServer(
        "Qwen/Qwen3-8B",
        gpus=[2, 3, 6, 7],
        tensor_parallel=2,
        data_parallel=2,
        dtype="bfloat16",
        max_model_len=32768,
        extra_args=["--reasoning-parser", "qwen3"],
        env={"VLLM_LOGGING_LEVEL": "DEBUG"},
    )
    command = " ".join(server.command(8123))
    assert command.startswith(f"{sys.executable} -m vllm.entrypoints.openai.api_server --host 127.0.0.1 --port 8123 ")
    assert "--model Qwen/Qwen3-8B --served-model-name Qwen/Qwen3-8B --dtype bfloat16" in command
    assert "--tensor-parallel-size 2 --data-parallel-size 2 --max-model-len 32768 --enable-prefix-caching" in command
    assert command.endswith("--reasoning-parser qwen3")
    assert "chunked" not in command
    env = server.environment()
    assert env["CUDA_VISIBLE_DEVICES"] == "2,3,6,7"
    assert env["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert "VLLM_CPU_KVCACHE_SPACE" not in env


def test_the_command_line_for_the_cpu_build(fake: Path, tmp_path: Path):
    server = VLLMServer(str(tmp_path), cpu=True, max_model_len=16384, prefix_caching=False)
    command = " ".join(server.command(1))
    # A seeded request whose prompt is read in chunks kills the CPU server.
    assert "--no-enable-prefix-caching --no-enable-chunked-prefill --max-num-batched-tokens 16384" in command
    env = server.environment()
    assert env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert env["OMP_WAIT_POLICY"] == "passive"
    assert int(env["OMP_NUM_THREADS"]) >= 1
    assert env["HF_HUB_OFFLINE"] == "1"


def test_serves_and_stops_with_its_workers(fake: Path):
    with VLLMServer("some/model", cpu=True) as server:
        assert discover(server.api_base) == ["some/model"]
        lm = server.lm
        assert lm is server.lm
        assert lm.capabilities_sync().context_length == 128
        assert lm.model == "endpoint/some/model:cpu-auto"
        assert lm.capabilities_sync().siblings
        assert lm.capabilities_sync().thinking_budget == "continue"
        pids = started(fake)
        assert len(pids) == 2
    assert gone(pids)
    with pytest.raises(ConfigError, match="not running"):
        _ = server.api_base
    server.stop()


def test_a_server_that_knows_thoughts_ends_them_itself(fake: Path):
    with VLLMServer("some/model", cpu=True, extra_args=("--reasoning-parser", "deepseek_r1")) as server:
        assert server.lm.capabilities_sync().thinking_budget == "server"


def test_a_crash_shows_the_servers_log(fake: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("FAKE_VLLM", "crash")
    with pytest.raises(ServerStartError, match=r"exited with status 1(.|\n)*ValueError: no such model"):
        VLLMServer("some/model", cpu=True, log_dir=tmp_path / "logs").start()
    assert "no such model" in (tmp_path / "logs" / "vllm.log").read_text()


@pytest.mark.slow
def test_a_server_that_is_never_ready_is_ended(fake: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FAKE_VLLM", "sick")
    with pytest.raises(ServerStartError, match="was not ready within 2 s"):
        VLLMServer("some/model", cpu=True, startup_timeout=2).start()
    assert not fake.exists() or gone(started(fake))


def test_a_port_in_use_is_reported(fake: Path):
    with MockServer() as other, pytest.raises(ServerStartError, match=f"`port={other.port}` cannot be used"):
        VLLMServer("some/model", cpu=True, port=other.port).start()


@pytest.mark.slow
def test_dies_with_a_parent_that_is_killed(fake: Path):
    script = (
        "import sys\n"
        "from pdr_dspy.serving import VLLMServer\n"
        "VLLMServer('some/model', cpu=True).start()\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": f"{os.environ['PYTHONPATH']}{os.pathsep}{root}"}
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root, env=env
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    assert parent.stdout.readline() == "ready\n"
    pids = started(fake)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    parent.stdin.close()
    assert gone(pids)


def test_attaches_without_starting_or_stopping_anything():
    with MockServer(models=("some/model",), kind="vllm") as running:
        with VLLMServer("some/model", api_base=running.api_base) as server:
            assert server.pid is None
            assert server.api_base == running.api_base
            assert server.lm("hello") == ["text 0"]
        assert discover(running.api_base) == ["some/model"]


def test_no_gpu_is_reported_with_the_alternatives(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vllm, "_has_gpu", lambda: False)
    with pytest.raises(ConfigError, match=r"LlamaCppServer.*cpu=True.*api_base"):
        VLLMServer("some/model")


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed here")
def test_missing_vllm_is_reported_with_the_install_line():
    with pytest.raises(MissingExtra, match=r'pip install "pdr-dspy\[vllm\]"'):
        VLLMServer("some/model", cpu=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tensor_parallel": 0}, "tensor_parallel=0"),
        ({"gpus": [0, 1, 2], "tensor_parallel": 2}, "names 3 GPUs"),
        ({"gpus": [0], "cpu": True}, "give one of them"),
        ({"cpu": True, "python": "/no/such/python"}, "is not an executable"),
        ({"max_model_len": 0, "cpu": True}, "max_model_len=0"),
    ],
)
def test_bad_arguments_are_refused_early(arguments: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        VLLMServer("some/model", **arguments)  # type: ignore[arg-type]
