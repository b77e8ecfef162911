"""Validation of outputs by a pydantic model or by constraints of their fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from pydantic import BaseModel, ValidationError, create_model

from pdr_dspy.arguments import explained
from pdr_dspy.errors import ConfigError
from pdr_dspy.runtime.registry import origin_of
from pdr_dspy.verifiers.base import Score
from pdr_dspy.verifiers.checks.base import FEEDBACK_TOKENS, SyncForm, bounded, one_line

_FAULTS = 5


@explained
@dataclass(frozen=True, eq=False)
class SchemaCheck(SyncForm):
    """Scores outputs by a pydantic model: 1 if they are valid, else the fraction of the model's fields without a fault.

    `schema` is a model, or field constraints by name: `SchemaCheck({"answer": Annotated[int, Field(ge=0)]})`. Without
    `field` it validates the outputs as a whole and ignores fields that the schema does not name; with `field` it
    validates that one output, an object or JSON text.
    """

    time_limit: ClassVar[float | None] = None  # it ends by itself
    schema: type[BaseModel] | Mapping[str, Any]
    field: str | None = None
    feedback_tokens: int = FEEDBACK_TOKENS

    def __post_init__(self) -> None:
        is_model = isinstance(self.schema, type) and issubclass(self.schema, BaseModel)
        if not is_model and not (isinstance(self.schema, Mapping) and self.schema):
            raise ConfigError(
                f"`SchemaCheck(schema={self.schema!r})` must be a pydantic model or a mapping from fields to types"
            )
        try:
            _ = self.model
        except Exception as error:
            raise ConfigError(f"`SchemaCheck(schema={self.schema!r})` cannot be made a model: {error}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SchemaCheck) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[Any, ...]:
        """The value that equality compares: the model class itself, or the constraints of fields."""
        held = self.schema
        said = held if isinstance(held, type) else json.dumps(self.model.model_json_schema(), sort_keys=True)
        return said, self.field, self.feedback_tokens

    @cached_property
    def model(self) -> type[BaseModel]:
        """The pydantic model for the validation."""
        if isinstance(self.schema, Mapping):
            constraints: dict[str, Any] = {name: (kind, ...) for name, kind in self.schema.items()}
            return create_model("Outputs", **constraints)
        return self.schema

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        """The score of the outputs; feedback names each fault and its location."""
        given: Any = outputs if self.field is None else outputs.get(self.field)
        if given is None:
            return Score(0, "no answer", feedback=f"There is no `{self.field}`.")
        model = self.model
        try:
            if isinstance(given, str):
                model.model_validate_json(given)
            elif isinstance(given, BaseModel):
                model.model_validate(given.model_dump())
            else:
                model.model_validate(dict(given) if isinstance(given, Mapping) else given)
        except ValidationError as error:
            return self._score(error)
        return Score(1, "valid")

    def describe(self) -> dict[str, Any]:
        """Return the JSON-serialisable settings, with the model's origin and JSON schema in place of the model."""
        return {
            "kind": type(self).__name__,
            "schema": origin_of(self.schema) if isinstance(self.schema, type) else None,
            "json_schema": self.model.model_json_schema(),
            "field": self.field,
            "feedback_tokens": self.feedback_tokens,
        }

    def _score(self, error: ValidationError) -> Score:
        faults = error.errors(include_url=False, include_context=False)
        places = {str(fault["loc"][0]) for fault in faults if fault["loc"]}
        known = {field.alias or name for name, field in self.model.model_fields.items()}
        whole = any(not fault["loc"] for fault in faults)
        value = 0.0 if whole or not known else max(0.0, 1 - len(places & known or places) / len(known))
        lines = [f"{len(faults)} {'fault' if len(faults) == 1 else 'faults'} in the answer."]
        for fault in faults[:_FAULTS]:
            place = ".".join(str(part) for part in fault["loc"]) or "the answer"
            lines.append(
                f"{one_line(place, 100)}: {one_line(fault['msg'])} (it is {one_line(_json(fault.get('input')), 120)})"
            )
        return Score(min(value, 0.99), f"{len(faults)} faults", feedback=bounded(lines, self.feedback_tokens))


def _json(value: Any) -> str:
    try:
        return json.dumps(value, default=str, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(value)
