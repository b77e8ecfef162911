"""A server's description of itself, read once: GET /v1/models, llama.cpp's /props and /lora-adapters, and the endpoints
where SGLang, Ollama, LM Studio and TGI report which weights they serve."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

_ASKED = {
    "sglang": ("/model_info", "/get_model_info"),
    "library": ("/api/tags",),
    "organization_owner": ("/api/v0/models",),
}
"""By the `owned_by` of a listed model: SGLang, Ollama, LM Studio."""
_WEIGHTS = ("model_path", "weight_version", "digest", "model_id", "model_sha", "publisher", "arch", "quantization")
WEIGHTS_TAG = "sha256:"
"""The tag of a model that gives its file, on servers started by this library."""
_SAMPLERS = ("top_k", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "mirostat")


class LoraFile(NamedTuple):
    """An adapter that llama.cpp has loaded."""

    id: int
    """Its number in requests."""
    path: str
    scale: float = 0.0
    """Of requests that name no adapter."""
    sha256: str | None = None
    """Of the file, if it could be read here."""


@dataclass(frozen=True)
class Server:
    """The kind of server (vllm, llama.cpp or other), the served names, and their context length in tokens."""

    kind: str
    models: tuple[str, ...]
    context: Mapping[str, int]
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Facts on each model's weights, as the server reports them: vLLM's `root`, and for an adapter its `parent` with
    that model's root; for llama.cpp the file, its size and shape, template, samplers and adapters."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """The shortened sha256 of a model's file, if known, with a digest of its serving settings: these identify the model
    on any machine."""
    parents: Mapping[str, str] = field(default_factory=dict)
    """The model that an adapter belongs to."""
    asked: tuple[str, ...] = ()
    """Further endpoints with facts on the model: paths below the server's root; the first that answers counts."""
    adapters: Mapping[str, LoraFile] = field(default_factory=dict)
    """The adapters of llama.cpp by the stems of their files."""

    @property
    def only(self) -> str | None:
        """The only served model, not counting adapters and further names of the same model; None if there are
        several."""
        whole = [name for name in self.models if name not in self.parents] or list(self.models)
        same = len({self.made_of(name) or name for name in whole}) == 1
        return whole[0] if whole and same else None

    def model(self, name: str) -> str:
        """The served model that a name selects: llama.cpp serves one, under any name."""
        return self.models[0] if self.kind == "llama.cpp" and len(self.models) == 1 else name

    def row(self, model: str, adapter: str | None) -> str:
        """The listed name whose facts are those of a model with an adapter: vLLM and SGLang list adapters as models."""
        return adapter if adapter is not None and adapter in self.models else self.model(model)

    def has(self, adapter: str) -> bool:
        """Whether the server has an adapter."""
        return adapter in (self.adapters if self.kind == "llama.cpp" else self.models)

    def scales(self, adapter: str | None) -> list[dict[str, float]]:
        """llama.cpp's `lora` of a request: every adapter with its scale. A request without it would have the right
        scales, and might read a cached prompt that was computed with other ones."""
        return [
            {"id": file.id, "scale": file.scale if adapter is None else float(name == adapter)}
            for name, file in self.adapters.items()
        ]

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """The adapters that the server has."""
        return tuple(self.adapters) if self.kind == "llama.cpp" else tuple(self.parents)

    def made_of(self, name: str) -> str:
        """The facts of a model in one line; empty if the server reports none."""
        return " ".join(f"{key}={value}" for key, value in self.facts.get(name, {}).items())

    def made_of_with(self, model: str, adapter: str | None) -> tuple[str, str | None]:
        """What a model with an adapter is made of: the server's facts, and the digest of its files if known."""
        served = self.row(model, adapter)
        facts, weights = self.made_of(served), self.weights.get(served)
        file = self.adapters.get(adapter or "")
        if file is None:
            return facts, weights
        both = f"{weights}+{file.sha256[:12]}" if weights and file.sha256 else None
        return f"{facts} lora={file.path}" + (f" lora_files={file.sha256[:12]}" if file.sha256 else ""), both

    def shown(self, name: str) -> str:
        """A model and its facts; all models if the server does not serve this one."""
        served = self.model(name)
        return f"{served} {self.made_of(served)}".strip() if served in self.models else ", ".join(self.models)

    def with_facts(self, name: str, facts: Mapping[str, str]) -> Server:
        """The description with further facts of a model."""
        return replace(self, facts={**self.facts, name: {**facts, **self.facts.get(name, {})}})

    def exchanged(self, now: Server, name: str) -> bool:
        """Whether the server is now another one: of another kind, without the model, or with other weights for it. A
        fact that only one of the two descriptions has proves nothing."""
        before, after = self.model(name), now.model(name)
        if self.kind != now.kind or (before in self.models and after not in now.models):
            return True
        if before in self.weights and after in now.weights:
            return self.weights[before] != now.weights[after]
        old, new = self.facts.get(before, {}), now.facts.get(after, {})
        return any(old[key] != new[key] for key in old.keys() & new.keys())

    def with_weights(self, name: str, reply: Any) -> Server:
        """The description with the reply of one of the paths of `asked`."""
        rows = [reply, *(row for key in ("models", "data") for row in _list(_dict(reply).get(key)))]
        own = {name, f"{name}:latest"}
        facts: dict[str, str] = {}
        for row in map(_dict, rows):
            if row is reply or own & {str(row.get(key)) for key in ("id", "name", "model")}:
                facts |= {key: str(row[key]) for key in _WEIGHTS if isinstance(row.get(key), str) and row[key]}
        return self.with_facts(name, facts) if facts else self

    def with_props(self, name: str, props: Any, adapters: Any, weights: str | None) -> Server:
        """The description with llama.cpp's /props and /lora-adapters of a model, and the sha256 of its file."""
        fields = props if isinstance(props, dict) else {}
        params = _dict(_dict(fields.get("default_generation_settings")).get("params"))
        facts = {
            "path": fields.get("model_path"),
            "template": _short(fields.get("chat_template")),
            "samplers": _short({each: params[each] for each in _SAMPLERS if each in params}),
            "adapters": _short([each for each in adapters if isinstance(each, dict) and each.get("scale")])
            if isinstance(adapters, list)
            else None,
        }
        files = {
            Path(str(each["path"])).stem: LoraFile(each["id"], str(each["path"]), float(each.get("scale") or 0.0))
            for each in (adapters if isinstance(adapters, list) else ())
            if isinstance(each, dict)
            and type(each.get("id")) is int
            and each.get("path")
            and isinstance(each.get("scale", 0.0), int | float)
        }
        known = dict(self.weights)
        if weights and name not in known:
            known[name] = f"{weights[:12]}~{_short({key: facts[key] for key in facts if key != 'path'})}"
        described = self.with_facts(name, {key: value for key, value in facts.items() if value})
        return replace(described, weights=known, adapters=files)


def read_listing(listing: Any) -> Server:
    """The description in the body of GET /models. Raises ValueError if it is not a list of models."""
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
        if row.get("owned_by") == row["id"]:  # TGI
            return ("/info",)
        if paths := _ASKED.get(str(row.get("owned_by"))):
            return paths
    return ()


def _facts(row: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The facts on a model's weights in its row of the listing."""
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
    """The common description of replicas: their kind ("other" if they differ), the models that all serve, the shortest
    context, and all facts on the models."""
    if len(servers) == 1:
        return servers[0]
    kinds = {server.kind for server in servers}
    models = tuple(name for name in servers[0].models if all(name in server.models for server in servers))
    context, facts, weights = {}, {}, {}
    for name in models:
        lengths = [server.context[name] for server in servers if name in server.context]
        if lengths:
            context[name] = min(lengths)
        known = [server.facts.get(name, {}) for server in servers]
        facts[name] = {key: value for key, value in known[0].items() if all(each.get(key) == value for each in known)}
        files = {server.weights.get(name) for server in servers}
        if len(files) == 1 and (file := files.pop()):
            weights[name] = file
    parents = {name: servers[0].parents[name] for name in models if name in servers[0].parents}
    adapters = {
        name: file
        for name, file in servers[0].adapters.items()
        if all(name in each.adapters and each.adapters[name].id == file.id for each in servers)
    }
    kind = kinds.pop() if len(kinds) == 1 else "other"
    return Server(kind, models, context, facts, weights, parents, adapters=adapters)


def differ(servers: Sequence[Server], model: str) -> tuple[str, str] | None:
    """The facts of two servers of one kind on a model, if they differ. llama.cpp's paths may differ if its files are
    equal."""
    seen: dict[str, tuple[str, str]] = {}
    for server in servers:
        name = server.model(model)
        weights = server.weights.get(name) or server.made_of(name)
        if weights:
            before, shown = seen.setdefault(server.kind, (weights, server.made_of(name) or weights))
            if before != weights:
                return shown, server.made_of(name) or weights
    return None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _short(value: Any) -> str | None:
    """A digest of a long value; None for an empty one."""
    if not value:
        return None
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]
