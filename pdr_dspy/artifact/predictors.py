"""A signature's fields and a predictor as plain data, and back: instructions, descriptions and demonstrations.

Types are described, not pickled; `prompts/types.py` rebuilds those that a file can hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

import dspy
from pydantic import TypeAdapter, ValidationError

from pdr_dspy.prompts.content import exact_data
from pdr_dspy.prompts.roles import signature_of
from pdr_dspy.prompts.types import describe_options, describe_type


def field_state(name: str, field: Any) -> dict[str, Any]:
    """A field of a signature: its type, description and options."""
    extra = _extra(field)
    return {
        "name": name,
        "type": describe_type(field.annotation),
        "desc": extra.get("desc"),
        **describe_options(field),
    }


def _extra(field: Any) -> dict[str, Any]:
    """DSPy's metadata of a field, such as its description."""
    return field.json_schema_extra or {}


def predictor_state(predictor: dspy.Predict) -> dict[str, Any]:
    """A predictor: its instructions, descriptions of fields, and demonstrations."""
    signature = signature_of(predictor)
    return {
        "instructions": signature.instructions,
        "fields": {name: {"desc": _extra(field).get("desc")} for name, field in signature.fields.items()},
        "demos": [{str(key): exact_data(value) for key, value in dict(demo).items()} for demo in predictor.demos],
    }


def restore_predictor(predictor: dspy.Predict, state: Mapping[str, Any]) -> None:
    """Give a predictor what `predictor_state` described; fields that it does not have are left out."""
    signature = signature_of(predictor).with_instructions(str(state["instructions"]))
    for name, saved in state["fields"].items():
        field = signature.fields.get(name)
        if field is None:
            continue
        if saved.get("desc") not in (None, _extra(field).get("desc")):
            signature = signature.with_updated_fields(name, desc=saved["desc"])
    predictor.signature = signature
    predictor.demos = [_demo(signature, demo) for demo in state["demos"]]


def _demo(signature: type[dspy.Signature], saved: Mapping[str, Any]) -> dspy.Example:
    """A demonstration with its values converted back to the types of their fields, so that it renders as before."""
    values = {}
    for name, value in saved.items():
        field = signature.fields.get(name)
        if field is not None and field.annotation is not str:
            with suppress(ValidationError):  # it was not a value of that type when it was saved either
                value = TypeAdapter(cast(Any, field.annotation)).validate_python(value)
        values[name] = value
    return dspy.Example(**values)
