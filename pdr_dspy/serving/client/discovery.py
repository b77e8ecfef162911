"""Asking a replica what it serves: the requests that each kind of server takes, and the files of a server on this
machine. The replies are read in `models`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dspy import lm15

from pdr_dspy.serving import fingerprint
from pdr_dspy.serving.client import retries
from pdr_dspy.serving.client.failures import Outcome, judge
from pdr_dspy.serving.client.models import Server, read_listing
from pdr_dspy.serving.client.network import is_loopback

GetJson = Callable[[str, str], Awaitable[Any]]
"""(address, path) -> the JSON of a GET; raises the lm15 errors, and ValueError for another reply."""


async def describe(api_base: str, get_json: GetJson, *, model: str, adapter: str | None, seconds: float) -> Server:
    """Ask one replica for its description.

    Waits up to `seconds` for a server that is loading its model; no other failure is retried.

    Args:
        api_base: the replica's address.
        get_json: sends the requests.
        model: the model whose facts are wanted; "auto" for the only one.
        adapter: the adapter whose facts are wanted.
        seconds: how long to wait for the model to be loaded.

    Raises the lm15 errors, and ValueError for a malformed list of models.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            server = read_listing(await get_json(api_base, "/models"))
            break
        except lm15.LM15Error as error:
            if judge(error) is not Outcome.LOADING or time.monotonic() + retries.LOADING > until:
                raise
        await asyncio.sleep(retries.LOADING)
    name = server.row(model if model != "auto" else server.only or "", adapter)
    if server.kind == "llama.cpp" and name in server.models:
        return await _with_props(server, name, api_base, get_json, adapter)
    if server.kind == "vllm" and name in server.models:
        return await _with_folders_here(server, name, api_base)
    for path in server.asked if name else ():
        with suppress(lm15.LM15Error, ValueError):
            return server.with_weights(name, await get_json(api_base.removesuffix("/v1"), path))
    return server


async def _with_props(server: Server, name: str, api_base: str, get_json: GetJson, adapter: str | None) -> Server:
    """The server with llama.cpp's properties and adapters, and the digests of the files that can be read here."""
    root = api_base.removesuffix("/v1")
    props, adapters = await asyncio.gather(
        get_json(root, f"/props?model={quote(name)}"), get_json(root, "/lora-adapters"), return_exceptions=True
    )
    path = props.get("model_path") if isinstance(props, dict) else None
    found = await _sha256_here(api_base, path) if name not in server.weights else None
    described = server.with_props(name, props, adapters, found)
    own = described.adapters.get(adapter or "")
    if own is None:
        return described
    own = own._replace(sha256=await _sha256_here(api_base, own.path))
    return replace(described, adapters={**described.adapters, str(adapter): own})


async def _sha256_here(api_base: str, path: Any) -> str | None:
    """The sha256 of the file that a server on this machine reports; None if it cannot be determined.

    A tunnel to another machine that also has this path is not detected: give such an endpoint an `identity`.
    """
    if not isinstance(path, str) or not is_loopback(api_base):
        return None
    with suppress(OSError, ValueError):
        if await asyncio.to_thread(Path(path).is_file):
            return await asyncio.to_thread(fingerprint.file_sha256, Path(path))
    return None


async def _with_folders_here(server: Server, name: str, api_base: str) -> Server:
    """The server with the state of the local folders from which a vLLM on this machine serves a model and its adapter:
    a training run may have overwritten the last checkpoint with the next."""
    facts = server.facts.get(name, {})
    states = {}
    for key in ("root", "parent_root") if is_loopback(api_base) else ():
        with suppress(OSError, ValueError):
            if key in facts and await asyncio.to_thread(Path(facts[key]).is_dir):
                states[f"{key}_files"] = await asyncio.to_thread(fingerprint.folder_state, Path(facts[key]))
    return server.with_facts(name, states) if states else server
