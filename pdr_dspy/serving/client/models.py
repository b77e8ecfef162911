"""What GET /v1/models says about a server, read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Server:
    """The kind of server (vllm, llama.cpp or other), the served names, and their context length in tokens."""

    kind: str
    models: tuple[str, ...]
    context: Mapping[str, int]


def read_listing(listing: Any) -> Server:
    """What the body of GET /models says. Raises ValueError when it is no list of models."""
    rows = listing.get("data") if isinstance(listing, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.get("id") for row in rows):
        raise ValueError("not a model list")
    owners = {str(row.get("owned_by", "")) for row in rows}
    kind = "llama.cpp" if "llamacpp" in owners else "vllm" if "vllm" in owners else "other"
    context = {}
    for row in rows:
        meta = row.get("meta")
        length = row.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else None)
        if type(length) is int and length > 0:
            context[str(row["id"])] = length
    return Server(kind, tuple(str(row["id"]) for row in rows), context)


def in_common(servers: Sequence[Server]) -> Server:
    """What replicas have in common: their kind ("other" when they differ), the models of all, the shortest context."""
    kinds = {server.kind for server in servers}
    models = tuple(name for name in servers[0].models if all(name in server.models for server in servers))
    context = {}
    for name in models:
        lengths = [server.context[name] for server in servers if name in server.context]
        if lengths:
            context[name] = min(lengths)
    return Server(kinds.pop() if len(kinds) == 1 else "other", models, context)
