"""`--verifier NAME[:KEY=VALUE,...]`: a verifier of any kind with its settings, on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pdr_dspy.cli.axis_option import read_value
from pdr_dspy.errors import ConfigError
from pdr_dspy.verifiers import VERIFIERS, Verifier, load_verifier
from pdr_dspy.verifiers.registry import asks_model

if TYPE_CHECKING:
    from pdr_dspy.serving import EndpointLM


class Grader(NamedTuple):
    """A verifier, and the model that it calls, to be closed after use; None if it calls none."""

    verifier: Verifier
    lm: EndpointLM | None = None


def grader_of(
    text: str,
    *,
    judge_base: str | None = None,
    judge_model: str | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Grader:
    """The verifier that `--verifier` names. Sends nothing yet.

    Args:
        text: such as "number", "number:tolerance=0.01" or "choice:options=choices".
        judge_base: the server of the model that a verifier calls, such as http://127.0.0.1:8000/v1.
        judge_model: the model served there; None if it has only one.
        defaults: settings that the text may leave out.

    Raises ConfigError for an unknown verifier or setting, and for a missing or superfluous judge's server.
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
            raise ConfigError(f"`--verifier {name}` calls a model: add `--judge-base` with the API base of its server")
        from pdr_dspy.serving import connect

        lm = connect(judge_model or "auto", judge_base)
    elif judge_base is not None:
        raise ConfigError(f"`--judge-base` needs a verifier that calls a model, and {name} calls none")
    return Grader(load_verifier({**(defaults or {}), **settings}, lm=lm), lm)
