"""Compiled programs behind an OpenAI-compatible HTTP API, with budgets that hold.

`app` makes an ASGI application of programs, to run by itself (`serve`, or `pdr serve`) or to mount in another one.
`limits` says what clients may ask for, `catalogue` which programs there are, `messages` how a chat feeds a signature,
`requests` what a request may say, `work` runs a program for one, `admission` decides whose turn it is, `answers` writes
completions and chunks, `streaming` sends them while the client is there, `journal` tells log and metrics, and `keys`,
`schema` and `server` do what they are called. Needs the extra `serve`.
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
