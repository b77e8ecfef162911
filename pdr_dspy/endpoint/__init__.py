"""Compiled programs behind an OpenAI-compatible HTTP API, with budgets that hold.

`app` makes an ASGI application of programs, to run by itself (`serve`, or `pdr serve`) or to mount in another one.
`limits` are the server's bounds on requests, `catalogue` the served programs, `messages` maps a chat to a signature,
`requests` validates requests, `work` runs a program for a request, `admission` queues runs, `answers` writes
completions and chunks, `streaming` sends them while the client is connected, `journal` writes log and metrics; `keys`,
`schema` and `server` are what their names say. Needs the extra `serve`.
"""

from __future__ import annotations

from pdr_dspy.errors import MissingExtra

try:
    from pdr_dspy.endpoint.app import app
    from pdr_dspy.endpoint.catalogue import ProgramFile
    from pdr_dspy.endpoint.keys import Keys
    from pdr_dspy.endpoint.limits import Limits
    from pdr_dspy.endpoint.server import serve
except ModuleNotFoundError as error:
    package = str(error.name).partition(".")[0].replace("_", "-")
    raise MissingExtra(package, "serve", "An endpoint (`pdr serve`, `pdr_dspy.app`)") from error

__all__ = ["Keys", "Limits", "ProgramFile", "app", "serve"]
