"""The OpenAPI document: the chat API, and each program by its signature."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import dspy
from pydantic import BaseModel, TypeAdapter

from pdr_dspy.endpoint.catalogue import Catalogue, Served
from pdr_dspy.endpoint.messages import adapter_of, described
from pdr_dspy.endpoint.programs import calls_of, schedules_of
from pdr_dspy.endpoint.requests import IGNORED, ChatRequest, Options
from pdr_dspy.prompts.roles import needed_inputs

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
STATUSES = {
    "400": "the request cannot be served as it is",
    "401": "no key, or a wrong one",
    "404": "no such program",
    "408": "the body came too slowly",
    "413": "the body is too large",
    "415": "the body is not application/json",
    "429": "the queue is full; see Retry-After",
    "500": "a fault of this server",
    "502": "the model server failed, or no answer could be read",
    "504": "the deadline passed before there was an answer",
}


def document(catalogue: Catalogue, version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    schemas: dict[str, Any] = {"Error": ERROR}
    chat = _model(ChatRequest, schemas)
    chat["properties"]["model"] = {"enum": [served.name for served in catalogue]}
    chat["properties"] |= {name: {"description": "accepted without effect"} for name in IGNORED}
    schemas["ChatRequest"] = chat
    schemas["Options"] = _model(Options, schemas)
    paths: dict[str, Any] = {
        "/health": {"get": {"security": [], "responses": {"200": {"description": "it serves"}}}},
        "/metrics": {"get": {"responses": {"200": {"description": "Prometheus' text format"}}}},
        "/v1/models": {"get": {"responses": {"200": _json("what is served", {"type": "object"})}}},
        "/v1/chat/completions": {
            "post": {
                "requestBody": _body({"$ref": "#/components/schemas/ChatRequest"}),
                "responses": _responses(_json("a completion, or a stream of chunks", {"type": "object"})),
            }
        },
    }
    for served in catalogue:
        paths[f"/v1/programs/{served.name}"] = {
            "post": {
                "summary": served.task.instructions.strip().partition("\n")[0],
                "operationId": f"run {served.name}",
                "requestBody": _body(request_schema(served, catalogue.efforts(served.base), schemas)),
                "responses": _responses(_json("the outputs", answer_schema(served, schemas))),
            }
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "pdr-dspy", "version": version},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{"key": []}, {}],
    }


def request_schema(served: Served, efforts: Iterable[str], schemas: dict[str, Any]) -> dict[str, Any]:
    """The body of `/v1/programs/{name}`; definitions go into `schemas`. `efforts` are the available ones."""
    task = served.task
    inputs = {name: _field(field, schemas) for name, field in task.input_fields.items()}
    required = list(needed_inputs(task))
    shape = {"type": "object", "properties": inputs, "required": required, "additionalProperties": False}
    return {
        "type": "object",
        "properties": {
            "inputs": shape,
            "pdr": {"anyOf": [{"$ref": "#/components/schemas/Options"}, {"type": "null"}]},
            "reasoning_effort": {"enum": [*efforts, None]},
            "max_completion_tokens": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
        },
        "required": ["inputs"],
        "additionalProperties": False,
    }


def answer_schema(served: Served, schemas: dict[str, Any]) -> dict[str, Any]:
    """The response of `/v1/programs/{name}`."""
    task = served.task
    outputs = {
        name: {"anyOf": [_field(field, schemas, mode="serialization"), {"type": "null"}]}
        for name, field in task.output_fields.items()
    }
    return {
        "type": "object",
        "properties": {
            "outputs": {"type": "object", "properties": outputs, "required": list(outputs)},
            "finish_reason": {"enum": ["stop", "length"]},
            "usage": {"type": "object"},
            "pdr": {"type": "object"},
        },
        "required": ["outputs", "finish_reason", "usage", "pdr"],
    }


def listing(served: Served) -> dict[str, Any]:
    """A program's entry in `/v1/models`."""
    program = served.program
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "pdr-dspy",
        "pdr": {
            "instructions": served.task.instructions,
            "schedule": schedules_of(program),
            "calls": calls_of(program),
            "messages": described(served.task),
            "outputs": list(served.task.output_fields),
            "figure": served.figure,
            "notes": served.notes,
            "point": served.point or None,
            "sha256": served.version or None,
        },
    }


def _field(field: Any, schemas: dict[str, Any], mode: Any = "validation") -> dict[str, Any]:
    if isinstance(field.annotation, type) and issubclass(field.annotation, dspy.Image):
        schema: dict[str, Any] = {"type": "string", "pattern": "^data:image/"}
    else:
        try:
            adapter = adapter_of(field)
            schema = adapter.json_schema(mode=mode, ref_template="#/components/schemas/{model}")
        except Exception:  # a user's type without a pydantic schema
            schema = {}
    schemas |= schema.pop("$defs", {})
    description = (field.json_schema_extra or {}).get("desc")
    return {**schema, "description": description} if description and not description.startswith("${") else schema


def _model(kind: type[BaseModel], schemas: dict[str, Any]) -> dict[str, Any]:
    schema = TypeAdapter(kind).json_schema(ref_template="#/components/schemas/{model}")
    schemas |= schema.pop("$defs", {})
    return schema


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _responses(good: dict[str, Any]) -> dict[str, Any]:
    error = {"$ref": "#/components/schemas/Error"}
    return {"200": good, **{status: _json(description, error) for status, description in STATUSES.items()}}
