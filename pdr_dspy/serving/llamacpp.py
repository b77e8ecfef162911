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
from pathlib import Path
from types import TracebackType
from typing import Any

from pdr_dspy.errors import ConfigError, MissingExtra
from pdr_dspy.serving import weights
from pdr_dspy.serving._process import HOST, ServerProcess, free_port
from pdr_dspy.serving.endpoint import EndpointLM, connect

_CHILD = Path(__file__).with_name("_llama_child.py")


class LlamaCppServer:
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
        self.model = entry.name if entry is not None else Path(model).stem
        self.slots = slots
        self.context = context
        self.threads = threads or len(
            os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        )
        self._source = os.fspath(model)
        self._identity = f"{entry.name}:{entry.sha256[:12]}" if entry is not None else None
        self._port = port
        self._log_dir = log_dir
        self._startup_timeout = startup_timeout
        self._progress = progress
        self._process: ServerProcess | None = None
        self._lms: list[EndpointLM] = []

    @property
    def api_base(self) -> str:
        """The API base, such as http://127.0.0.1:8080/v1; ConfigError before start()."""
        return f"http://{HOST}:{self._started().port}/v1"

    @property
    def pid(self) -> int | None:
        """The id of the server's process group, None when it does not run."""
        return self._process.pid if self._process is not None else None

    @property
    def lm(self) -> EndpointLM:
        """An LM of this server with connect()'s default sampling; the same object each time."""
        if not self._lms:
            self.connect()
        return self._lms[0]

    def connect(self, **settings: Any) -> EndpointLM:
        """Return an LM of this server; takes the keyword arguments of endpoint.connect()."""
        defaults: dict[str, Any] = {
            "siblings": True,
            "max_siblings": self.slots,
            "context_length": self.context,
            "identity": self._identity,
        }
        lm = connect(self.model, self.api_base, **{**defaults, **settings})
        self._lms.append(lm)
        return lm

    def start(self) -> LlamaCppServer:
        """Find or download the weights, start the server and return when it is ready.

        Raises WeightsError if the weights cannot be had, ServerStartError if the server fails or the port is taken.
        """
        if self._process is not None:
            return self
        path = weights.locate(self._source, progress=self._progress)
        port = free_port(self._port)
        settings = {
            "path": str(path),
            "alias": self.model,
            "port": port,
            "slots": self.slots,
            "context": self.context,
            "threads": self.threads,
        }
        # Threads that spin while they wait take the processor from those that work, on a shared machine by 10x.
        env = {**os.environ, "OMP_WAIT_POLICY": "passive"}
        command = [sys.executable, "-P", str(_CHILD), json.dumps(settings)]
        self._process = ServerProcess(command, name="llama.cpp", port=port, env=env, log_dir=self._log_dir)
        try:
            self._process.start(self._startup_timeout)
        except BaseException:
            self._process = None
            raise
        return self

    def stop(self) -> None:
        """Stop the server and close the connections of its LMs. Harmless when it does not run."""
        for lm in self._lms:
            lm.close()
        self._lms.clear()
        process, self._process = self._process, None
        if process is not None:
            process.stop()

    def __enter__(self) -> LlamaCppServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _started(self) -> ServerProcess:
        if self._process is None:
            raise ConfigError("`LlamaCppServer` is not running: use it in a `with` block, or call start()")
        return self._process
