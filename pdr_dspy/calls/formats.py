"""Requests with an output format, to servers that may refuse it or pay it no heed.

A server that refuses a form is asked without it, now and from then on: what it refused is noted on the LM (of an
endpoint, on what its copies share), never elsewhere. The key of a request keeps its form, so that a replay finds what
was answered then.
"""

from __future__ import annotations

import logging
import re
from typing import NamedTuple

import dspy
from dspy.lm15 import Request

from pdr_dspy.calls import dspy_bridge
from pdr_dspy.calls.capabilities import ServedModel
from pdr_dspy.calls.dspy_bridge import Sent, Tries, tries_of
from pdr_dspy.calls.ledger import FormatFate
from pdr_dspy.calls.output_format import OUTPUT, OutputFormat
from pdr_dspy.calls.request import changed, extended

logger = logging.getLogger("pdr_dspy")

REFUSALS = (dspy.LMInvalidRequestError, dspy.LMUnsupportedFeatureError)
"""What a server that takes no such request raises."""
_NAMED = re.compile(r"response.?format|structured.?output|guided|grammar|json.?schema|json.?object|" + OUTPUT, re.I)
"""What a refusal names that is of the form, in the words of vLLM, llama.cpp, OpenAI and others."""
_OF_ITS_OWN = re.compile(
    r"invalid.{0,20}(schema|grammar|regex)|schema.{0,20}(contains|invalid)|(parse|compile|convert|conversion).{0,40}"
    r"(schema|grammar)|(schema|grammar).{0,20}(error|conversion|failed|too)|xgrammar|outlines|guidance",
    re.I,
)
"""What a refusal says of this one form, where the server can hold completions to others."""


class Formatted(NamedTuple):
    """What became of a request that may have a form."""

    sent: Sent
    refused: bool
    """The server takes no such form; it was asked without."""
    before: Tries
    """Of the request that was refused just now."""

    def fate(self, output_format: OutputFormat | None, text: str, finish: str) -> FormatFate:
        """What became of the form, given the text after any thought."""
        return fate_of(output_format, text, finish, refused=self.refused)

    @property
    def tries(self) -> Tries:
        """How often it was sent, without its form included."""
        own = Tries() if self.sent.reused else tries_of(self.sent.response)
        return Tries(self.before.tries + own.tries, self.before.unsettled + own.unsettled)


_NONE = Tries(0, 0)


async def send(lm: dspy.BaseLM, request: Request, output_format: OutputFormat | None) -> Formatted:
    """Send a request that was written for this form, without it where the server refuses it. Raises the errors of
    `dspy.LMError`'s family."""
    before = _NONE
    if output_format is not None and not is_refused(lm, output_format):
        try:
            return Formatted(await dspy_bridge.send(lm, request), False, _NONE)  # type: ignore[arg-type]
        except REFUSALS as error:
            if not note(lm, output_format, error):
                raise
            before = tries_of(error)
    if output_format is not None:
        request = without_format(request)
    return Formatted(await dspy_bridge.send(lm, request), output_format is not None, before)  # type: ignore[arg-type]


def fate_of(output_format: OutputFormat | None, text: str, finish: str, *, refused: bool) -> FormatFate:
    """What became of a form, given the text after any thought."""
    if output_format is None:
        return ""
    if refused:
        return "refused"
    return "held" if finish == "length" or output_format.fits(text) else "ignored"


def is_refused(lm: dspy.BaseLM, output_format: OutputFormat) -> bool:
    """Whether the server of an LM has refused this form, or forms of its kind."""
    return not {output_format.kind, output_format.key}.isdisjoint(_refused(lm))


def note(lm: dspy.BaseLM, output_format: OutputFormat, error: BaseException) -> bool:
    """Note that a request was refused for its form; False, and nothing noted, where it was refused for something
    else."""
    said = " ".join(str(error).split())
    if isinstance(error, dspy.ContextWindowExceededError) or not _NAMED.search(said):
        return False
    own = _OF_ITS_OWN.search(said) is not None
    refused, what = _refused(lm), output_format.key if own else output_format.kind
    if what not in refused:
        refused.add(what)
        which = repr(output_format) if own else f"output formats of the kind {output_format.kind!r}"
        logger.warning("%s refuses %s, and is asked without from now on: %s", lm.model, which, said[:300])
    return True


def with_format(lm: dspy.BaseLM, request: Request, output_format: OutputFormat) -> Request:
    """A request that has no form, with one that the LM can hold a completion to."""
    if isinstance(lm, ServedModel):
        return extended(request, **{OUTPUT: output_format.wire})
    schema = {"type": "json_schema", **output_format.response_format["json_schema"]}
    return changed(request, config=changed(request.config, response_format=schema))


def without_format(request: Request) -> Request:
    """A request that has a form, without it."""
    config = request.config
    extensions = {name: value for name, value in (config.extensions or {}).items() if name != OUTPUT}
    return changed(request, config=changed(config, response_format=None, extensions=extensions or None))


def _refused(lm: dspy.BaseLM) -> set[str]:
    """Kinds and keys of the forms that the server of an LM has refused. An endpoint's own, shared by its copies; of any
    other LM, on the object."""
    own = getattr(lm, "refused_formats", None)
    return own if isinstance(own, set) else vars(lm).setdefault("_pdr_refused_formats", set())
