"""The embedded engine: a llama.cpp server from the `xllamacpp` wheel, in its own process on the loopback interface.

    with LlamaCppServer("qwen2.5-coder-0.5b", slots=16, context=1024) as server:
        dspy.configure(lm=server.connect(temperature=0.8, max_tokens=256))

Samplers that a request does not set keep llama.cpp's defaults: top_k 40, top_p 0.95, min_p 0.05.
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
        slots: sequences decoded side by side; at least the largest width, or wide rounds are sent in parts.
        context: tokens of prompt and completion together that each slot may hold. Memory is reserved for
            slots x context tokens (about 12 kB a token for the 0.5B model).
        threads: for computation; None takes the CPUs that this process may use.
        port: 0 for a free one.
        log_dir: keeps the server's log there; None removes it at stop().
        startup_timeout: seconds to wait until the model is loaded.
        progress: shown while weights are downloaded; see weights.locate().
        sources: where a file of the catalogue is looked for; see weights.locate().

    Raises MissingExtra without xllamacpp, ConfigError for arguments that cannot work, all before anything is
    downloaded or started.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = weights.DEFAULT,
        *,
        slots: int = 16,
        context: int = 1024,
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
            raise ConfigError(f"`LlamaCppServer(slots={slots})`: llama.cpp decodes at most 256 sequences side by side")
        entry = weights.CATALOGUE.get(os.fspath(model))
        if entry is not None and context > entry.context_length:
            raise ConfigError(
                f"`LlamaCppServer(context={context})` is above the {entry.context_length} tokens that {entry.name} "
                "was trained for"
            )
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
        }

    def _launch(self) -> ServerProcess:
        path = weights.locate(self._source, sources=self._sources, progress=self._progress)
        port = free_port(self._port)
        sha256 = file_sha256(path)
        self._identity = f"{self.model}:{sha256[:12]}"  # the weights, not the port: the same after a restart
        settings = {
            "path": str(path),
            "alias": self.model,
            "port": port,
            "slots": self.slots,
            "context": self.context,
            "threads": self.threads,
            "tag": f"{WEIGHTS_TAG}{sha256}",  # so that whoever connects to it by its address knows them too
        }
        # Threads that spin while they wait take the processor from those that work, on a shared machine by 10x.
        env = {**os.environ, "OMP_WAIT_POLICY": "passive"}
        command = [sys.executable, "-P", str(_CHILD), json.dumps(settings)]
        return ServerProcess(command, name="llama.cpp", port=port, env=env, log_dir=self._log_dir)
