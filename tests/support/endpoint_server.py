"""An application of programs behind a real socket, in a thread of its own.

with EndpointServer(pdr_dspy.app(program, lm=lm)) as server:
    openai.OpenAI(base_url=server.api_base, api_key="none")
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from pdr_dspy.endpoint import Limits
from pdr_dspy.endpoint.server import bind, make


class EndpointServer:
    """Context manager."""

    def __init__(self, app: Any, limits: Limits | None = None) -> None:
        self.app = app
        self.listener = bind("127.0.0.1", 0)
        self.port = self.listener.getsockname()[1]
        self.server = make(app, limits or Limits())
        self._ready = threading.Event()
        self.server.when_ready = self._ready.set
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self.server.serve(sockets=[self.listener])), daemon=True
        )

    def __enter__(self) -> EndpointServer:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self.join()

    def stop(self) -> None:
        """What SIGTERM does."""
        self.server.should_exit = True

    def join(self) -> None:
        """Wait until it has drained."""
        self._thread.join(30)
        assert not self._thread.is_alive()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_base(self) -> str:
        return f"{self.url}/v1"
