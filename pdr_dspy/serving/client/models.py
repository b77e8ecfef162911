"""What a server says about itself, read once: GET /v1/models, llama.cpp's /props and /lora-adapters, and where SGLang,
Ollama, LM Studio and TGI say which weights they serve."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

_ASKED = {
    "sglang": ("/model_info", "/get_model_info"),
    "library": ("/api/tags",),
    "organization_owner": ("/api/v0/models",),
}
"""By what the listing calls the owner of a model: SGLang, Ollama, LM Studio."""
_WEIGHTS = ("model_path", "weight_version", "digest", "model_id", "model_sha", "publisher", "arch", "quantization")
WEIGHTS_TAG = "sha256:"
"""The tag of a model that says which file it is, on servers that this library started."""
_SAMPLERS = ("top_k", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "mirostat")


@dataclass(frozen=True)
class Server:
    """The kind of server (vllm, llama.cpp or other), the served names, and their context length in tokens."""

    kind: str
    models: tuple[str, ...]
    context: Mapping[str, int]
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What each model is made of, as far as the server says: vLLM its `root`, and of an adapter the `parent` with its
    root; llama.cpp the file, its size and shape, template, samplers and adapters."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """The sha256 of a model's file, shortened, where that is known, and a digest of what else it is served with: then
    these answer, wherever they are."""
    parents: Mapping[str, str] = field(default_factory=dict)
    """The model that an adapter belongs to."""
    asked: tuple[str, ...] = ()
    """Where else the server says what it serves: paths below its root, of which the first that answers counts."""

    @property
    def only(self) -> str | None:
        """The one model that is served, adapters and further names of the same model aside; None for several."""
        whole = [name for name in self.models if name not in self.parents] or list(self.models)
        same = len({self.made_of(name) or name for name in whole}) == 1
        return whole[0] if whole and same else None

    def model(self, name: str) -> str:
        """Which of the served models answers to a name: llama.cpp has one, and answers to any."""
        return self.models[0] if self.kind == "llama.cpp" and len(self.models) == 1 else name

    def made_of(self, name: str) -> str:
        """The facts of a model in one line; empty where the server says nothing."""
        return " ".join(f"{key}={value}" for key, value in self.facts.get(name, {}).items())

    def shown(self, name: str) -> str:
        """A model and its facts, or all models where that one is not there."""
        served = self.model(name)
        return f"{served} {self.made_of(served)}".strip() if served in self.models else ", ".join(self.models)

    def with_facts(self, name: str, facts: Mapping[str, str]) -> Server:
        """The same with more facts of a model."""
        return replace(self, facts={**self.facts, name: {**facts, **self.facts.get(name, {})}})

    def exchanged(self, now: Server, name: str) -> bool:
        """Whether the server is another one `now`: of another kind, without the model, or with one of other weights.
        What it says at one time alone proves nothing."""
        before, after = self.model(name), now.model(name)
        if self.kind != now.kind or (before in self.models and after not in now.models):
            return True
        if before in self.weights and after in now.weights:
            return self.weights[before] != now.weights[after]
        old, new = self.facts.get(before, {}), now.facts.get(after, {})
        return any(old[key] != new[key] for key in old.keys() & new.keys())

    def with_weights(self, name: str, said: Any) -> Server:
        """The same with what one of the paths of `asked` answered."""
        rows = [said, *(row for key in ("models", "data") for row in _list(_dict(said).get(key)))]
        own = {name, f"{name}:latest"}
        facts: dict[str, str] = {}
        for row in map(_dict, rows):
            if row is said or own & {str(row.get(key)) for key in ("id", "name", "model")}:
                facts |= {key: str(row[key]) for key in _WEIGHTS if isinstance(row.get(key), str) and row[key]}
        return self.with_facts(name, facts) if facts else self

    def with_props(self, name: str, props: Any, adapters: Any, weights: str | None) -> Server:
        """The same with what llama.cpp's /props and /lora-adapters say of a model, and the sha256 of its file."""
        said = props if isinstance(props, dict) else {}
        params = _dict(_dict(said.get("default_generation_settings")).get("params"))
        facts = {
            "path": said.get("model_path"),
            "template": _short(said.get("chat_template")),
            "samplers": _short({each: params[each] for each in _SAMPLERS if each in params}),
            "adapters": _short([each for each in adapters if isinstance(each, dict) and each.get("scale")])
            if isinstance(adapters, list)
            else None,
        }
        known = dict(self.weights)
        if weights and name not in known:
            known[name] = f"{weights[:12]}~{_short({key: facts[key] for key in facts if key != 'path'})}"
        return replace(self.with_facts(name, {key: value for key, value in facts.items() if value}), weights=known)


def read_listing(listing: Any) -> Server:
    """What the body of GET /models says. Raises ValueError when it is no list of models."""
    rows = listing.get("data") if isinstance(listing, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.get("id") for row in rows):
        raise ValueError("not a model list")
    owners = {str(row.get("owned_by", "")) for row in rows}
    kind = "llama.cpp" if "llamacpp" in owners else "vllm" if "vllm" in owners else "other"
    context = {}
    for row in rows:
        length = row.get("max_model_len") or _dict(row.get("meta")).get("n_ctx")
        if type(length) is int and length > 0:
            context[str(row["id"])] = length
    by_name = {str(row["id"]): row for row in rows}
    return Server(
        kind,
        tuple(by_name),
        context,
        {name: _facts(row, by_name) for name, row in by_name.items()},
        {name: sha for name, row in by_name.items() if (sha := _tagged(row))},
        {name: str(row["parent"]) for name, row in by_name.items() if row.get("parent")},
        _asked(rows),
    )


def _asked(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    for row in rows:
        if row.get("owned_by") == row["id"]:  # as TGI says it
            return ("/info",)
        if paths := _ASKED.get(str(row.get("owned_by"))):
            return paths
    return ()


def _facts(row: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What a row of the listing says that its model is made of."""
    facts = {name: str(row[name]) for name in ("root", "parent", "digest") if row.get(name)}
    parent = rows.get(str(row.get("parent")), {})
    if parent is not row and parent.get("root"):
        facts["parent_root"] = str(parent["root"])
    meta = _dict(row.get("meta"))
    return facts | {
        name: str(meta[name]) for name in ("n_params", "size", "n_vocab", "n_embd", "ftype") if name in meta
    }


def _tagged(row: Mapping[str, Any]) -> str | None:
    tags = row.get("tags")
    found = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    return next((tag.removeprefix(WEIGHTS_TAG)[:12] for tag in found if tag.startswith(WEIGHTS_TAG)), None)


def in_common(servers: Sequence[Server]) -> Server:
    """What replicas have in common: their kind ("other" when they differ), the models of all, the shortest context, and
    all that they say their models are made of."""
    if len(servers) == 1:
        return servers[0]
    kinds = {server.kind for server in servers}
    models = tuple(name for name in servers[0].models if all(name in server.models for server in servers))
    context, facts, weights = {}, {}, {}
    for name in models:
        lengths = [server.context[name] for server in servers if name in server.context]
        if lengths:
            context[name] = min(lengths)
        said = [server.facts.get(name, {}) for server in servers]
        facts[name] = {key: value for key, value in said[0].items() if all(each.get(key) == value for each in said)}
        files = {server.weights.get(name) for server in servers}
        if len(files) == 1 and (file := files.pop()):
            weights[name] = file
    parents = {name: servers[0].parents[name] for name in models if name in servers[0].parents}
    return Server(kinds.pop() if len(kinds) == 1 else "other", models, context, facts, weights, parents)


def differ(servers: Sequence[Server], model: str) -> tuple[str, str] | None:
    """What two servers of one kind say that a model is made of, where they do not say the same. llama.cpp's paths may
    differ where its files are the same."""
    seen: dict[str, tuple[str, str]] = {}
    for server in servers:
        name = server.model(model)
        told = server.weights.get(name) or server.made_of(name)
        if told:
            before, shown = seen.setdefault(server.kind, (told, server.made_of(name) or told))
            if before != told:
                return shown, server.made_of(name) or told
    return None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _short(value: Any) -> str | None:
    """A digest of something long; None for nothing."""
    if not value:
        return None
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]
