"""`--verifier NAME[:KEY=VALUE,...]`: a verifier of any kind, with its settings, in a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pdr_dspy.cli.axis_option import read_value
from pdr_dspy.errors import ConfigError
from pdr_dspy.verifiers import VERIFIERS, Verifier, load_verifier
from pdr_dspy.verifiers.registry import asks_model

if TYPE_CHECKING:
    from pdr_dspy.serving import EndpointLM


class Grader(NamedTuple):
    """A verifier, and the model that it asks, to be closed after use; None for one that asks none."""

    verifier: Verifier
    lm: EndpointLM | None = None


def grader_of(text: str, *, judge_base: str | None = None, judge_model: str | None = None) -> Grader:
    """The verifier that `--verifier` names. Nothing is sent yet.

    Args:
        text: such as "number", "number:tolerance=0.01" or "choice:options=choices".
        judge_base: of the server whose model a verifier asks, such as http://127.0.0.1:8000/v1.
        judge_model: the model served there; None where it has only one.

    Raises ConfigError for a verifier or setting that is not known, and where a judge's server is missing or too many.
    """
    name, _, listed = text.partition(":")
    settings: dict[str, Any] = {"kind": name}
    for part in filter(None, listed.split(",")):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key or key in ("kind", "lm") or key in settings:
            raise ConfigError(f"`--verifier {text}`: {part!r} is not KEY=VALUE, each key once")
        settings[key] = read_value(value)
    if name not in VERIFIERS:
        raise ConfigError(f"`--verifier {text}`: {VERIFIERS.unknown(name)}")
    lm = None
    if asks_model(name):
        if judge_base is None:
            raise ConfigError(f"`--verifier {name}` asks a model: add `--judge-base` with the API base of its server")
        from pdr_dspy.serving import connect

        lm = connect(judge_model or "auto", judge_base)
    elif judge_base is not None:
        raise ConfigError(f"`--judge-base` goes with a verifier that asks a model, and {name} asks none")
    return Grader(load_verifier(settings, lm=lm), lm)
