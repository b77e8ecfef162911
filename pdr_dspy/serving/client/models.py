"""What GET /v1/models says about a server, read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Server:
    """The kind of server (vllm, llama.cpp or other), the served names, and their context length in tokens."""

    kind: str
    models: tuple[str, ...]
    context: Mapping[str, int]
    roots: Mapping[str, str] = field(default_factory=dict)
    """What each model is made of, as far as the server says: vLLM its `root` and the `parent` of an adapter, llama.cpp
    the file and the size of the model."""

    def loaded(self, props: Any) -> Server:
        """The same with what llama.cpp's GET /props says: which file it has loaded."""
        path = props.get("model_path") if isinstance(props, dict) else None
        if not isinstance(path, str) or not path:
            return self
        return replace(self, roots={name: f"{path} {self.roots.get(name, '')}".strip() for name in self.models})


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
    return Server(kind, tuple(str(row["id"]) for row in rows), context, {str(row["id"]): _root(row) for row in rows})


def _root(row: Mapping[str, Any]) -> str:
    """What a row of the listing says that its model is made of; empty where it says nothing."""
    meta = row.get("meta")
    facts = {name: row[name] for name in ("root", "parent") if row.get(name)}
    if isinstance(meta, dict):
        facts |= {name: meta[name] for name in ("n_params", "size", "n_vocab", "n_embd") if name in meta}
    return " ".join(f"{name}={value}" for name, value in facts.items())


def in_common(servers: Sequence[Server]) -> Server:
    """What replicas have in common: their kind ("other" when they differ), the models of all, the shortest context."""
    kinds = {server.kind for server in servers}
    models = tuple(name for name in servers[0].models if all(name in server.models for server in servers))
    context = {}
    for name in models:
        lengths = [server.context[name] for server in servers if name in server.context]
        if lengths:
            context[name] = min(lengths)
    roots = {name: " | ".join(sorted({server.roots.get(name, "") for server in servers} - {""})) for name in models}
    return Server(kinds.pop() if len(kinds) == 1 else "other", models, context, roots)
