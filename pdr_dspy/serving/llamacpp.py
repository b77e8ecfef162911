"""The embedded engine: a llama.cpp server from the `xllamacpp` wheel, in its own process on the loopback interface.

    with LlamaCppServer("qwen2.5-coder-0.5b", slots=16, context=1024) as server:
        dspy.configure(lm=server.connect(temperature=0.8, max_tokens=256))

Sampling settings that a request omits have llama.cpp's defaults: top_k 40, top_p 0.95, min_p 0.05.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pdr_dspy.errors import ConfigError, MissingExtra
from pdr_dspy.serving import weights
from pdr_dspy.serving.client.models import WEIGHTS_TAG
from pdr_dspy.serving.fingerprint import file_sha256
from pdr_dspy.serving.process.server import LocalServer, ServerProcess, free_port

_CHILD = Path(__file__).with_name("process") / "llama_child.py"


class LlamaCppServer(LocalServer):
    """A llama.cpp server for one model; a context manager.

    Args:
        model: a name of weights.CATALOGUE, or the path of a GGUF file.
        slots: sequences decoded concurrently; choose at least the largest width, or wide rounds are sent in parts.
        context: tokens of prompt and completion together that each slot may hold. Memory is reserved for
            slots x context tokens (about 12 kB a token for the 0.5B model).
        adapters: GGUF files of LoRA adapters, as llama.cpp's convert_lora_to_gguf.py writes them, each named after its
            file; `server.lm.with_adapter(name)` applies one, and other requests are those of the untouched model.
        threads: computing threads; None takes the CPUs that this process may use.
        port: 0 for a free one.
        log_dir: folder that keeps the server's log; None removes the log at stop().
        startup_timeout: seconds to wait until the model is loaded.
        progress: called while weights are downloaded; see weights.locate().
        sources: sources of the catalogue's files; see weights.locate().

    Raises, before anything is downloaded or started: MissingExtra without xllamacpp, ConfigError for invalid arguments.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = weights.DEFAULT,
        *,
        slots: int = 16,
        context: int = 1024,
        adapters: Sequence[str | os.PathLike[str]] = (),
        threads: int | None = None,
        port: int = 0,
        log_dir: str | os.PathLike[str] | None = None,
        startup_timeout: float = 180.0,
        progress: weights.Progress | None = None,
        sources: Sequence[str | weights.Source] = weights.SOURCES,
    ) -> None:
        for name, value in {"slots": slots, "context": context, "threads": threads}.items():
            if value is not None and value < 1:
                raise ConfigError(f"`LlamaCppServer({name}={value})` must be at least 1")
        if slots > 256:
            raise ConfigError(f"`LlamaCppServer(slots={slots})` must be at most 256, the limit of llama.cpp")
        entry = weights.CATALOGUE.get(os.fspath(model))
        if entry is not None and context > entry.context_length:
            raise ConfigError(
                f"`LlamaCppServer(context={context})` is above the {entry.context_length} tokens that {entry.name} "
                "was trained for"
            )
        self._adapters = {Path(file).stem: Path(file) for file in adapters}
        for name, file in self._adapters.items():
            if not file.is_file():
                raise ConfigError(f"`LlamaCppServer(adapters=...)`: the adapter {name!r} has no file {str(file)!r}")
        if len(self._adapters) < len(adapters):
            raise ConfigError("`LlamaCppServer(adapters=...)` has two files of one name; rename one")
        if importlib.util.find_spec("xllamacpp") is None:
            raise MissingExtra("xllamacpp", "embedded", "`LlamaCppServer`")
        super().__init__(
            entry.name if entry is not None else Path(model).stem,
            port=port,
            log_dir=log_dir,
            startup_timeout=startup_timeout,
        )
        self.slots = slots
        self.context = context
        self.threads = threads or len(
            os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        )
        self._source = os.fspath(model)
        self._identity: str | None = None
        self._progress = progress
        self._sources = tuple(sources)

    def _connection(self) -> dict[str, Any]:
        return {
            "siblings": True,
            "max_siblings": self.slots,
            "context_length": self.context,
            "identity": self._identity,
            "adapters": {name: file_sha256(file)[:12] for name, file in self._adapters.items()},
        }

    def _launch(self) -> ServerProcess:
        path = weights.locate(self._source, sources=self._sources, progress=self._progress)
        port = free_port(self._port)
        sha256 = file_sha256(path)
        self._identity = f"{self.model}:{sha256[:12]}"  # the weights without the port: the same after a restart
        settings = {
            "path": str(path),
            "adapters": [str(file.resolve()) for file in self._adapters.values()],
            "alias": self.model,
            "port": port,
            "slots": self.slots,
            "context": self.context,
            "threads": self.threads,
            "tag": f"{WEIGHTS_TAG}{sha256}",  # lets clients that connect by address identify the weights
        }
        # Spinning threads take processor time from working ones: a factor of 10 on a shared machine.
        env = {**os.environ, "OMP_WAIT_POLICY": "passive"}
        command = [sys.executable, "-P", str(_CHILD), json.dumps(settings)]
        return ServerProcess(command, name="llama.cpp", port=port, env=env, log_dir=self._log_dir)
