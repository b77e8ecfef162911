"""Requests with an output format, to servers that may refuse or ignore it.

If a server refuses a format, the request is sent without it, now and from then on. The refusal is noted on the LM (for
an endpoint, in the state that its copies share) and nowhere else. The key of a request keeps its format, so that a
replay finds the completion that was stored then.
"""

from __future__ import annotations

import logging
import re
from typing import NamedTuple

import dspy
from dspy.lm15 import Request

from pdr_dspy.calls import dspy_bridge
from pdr_dspy.calls.capabilities import is_served
from pdr_dspy.calls.dspy_bridge import Sent, Tries, tries_of
from pdr_dspy.calls.ledger import FormatFate
from pdr_dspy.calls.output_format import OUTPUT, OutputFormat
from pdr_dspy.calls.request import changed, extended

logger = logging.getLogger("pdr_dspy")

REFUSALS = (dspy.LMInvalidRequestError, dspy.LMUnsupportedFeatureError)
"""Errors of a server that does not accept such a request."""
_NAMED = re.compile(r"response.?format|structured.?output|guided|grammar|json.?schema|json.?object|" + OUTPUT, re.I)
"""Words in a refusal that mean the format, as vLLM, llama.cpp, OpenAI and others write them."""
_THIS_FORMAT = re.compile(
    r"invalid.{0,20}(schema|grammar|regex)|schema.{0,20}(contains|invalid)|(parse|compile|convert|conversion).{0,40}"
    r"(schema|grammar)|(schema|grammar).{0,20}(error|conversion|failed|too)|xgrammar|outlines|guidance",
    re.I,
)
"""Words in a refusal of this one format by a server that supports others."""


class Formatted(NamedTuple):
    """The outcome of a request that may have a format."""

    sent: Sent
    refused: bool
    """The server refused the format; the request was sent without it."""
    before: Tries
    """Tries of the refused request, if any."""

    def fate(self, output_format: OutputFormat | None, text: str, finish: str) -> FormatFate:
        """The fate of the format, given the text after any thought."""
        return fate_of(output_format, text, finish, refused=self.refused)

    @property
    def tries(self) -> Tries:
        """How often the request was sent, with and without its format."""
        own = Tries() if self.sent.reused else tries_of(self.sent.response)
        return Tries(self.before.tries + own.tries, self.before.unsettled + own.unsettled)


_NONE = Tries(0, 0)


async def send(lm: dspy.BaseLM, request: Request, output_format: OutputFormat | None) -> Formatted:
    """Send a request that was written for this format, without it if the server refuses it. Raises `dspy.LMError` and
    its subclasses."""
    if output_format is None:
        return Formatted(await dspy_bridge.send(lm, request), False, _NONE)  # type: ignore[arg-type]
    before = _NONE
    if not is_refused(lm, output_format):
        try:
            return Formatted(await dspy_bridge.send(lm, request), False, _NONE)  # type: ignore[arg-type]
        except REFUSALS as error:
            if not note(lm, output_format, error):
                raise
            before = tries_of(error)
    return Formatted(await dspy_bridge.send(lm, without_format(request)), True, before)  # type: ignore[arg-type]


def fate_of(output_format: OutputFormat | None, text: str, finish: str, *, refused: bool) -> FormatFate:
    """The fate of a format, given the text after any thought."""
    if output_format is None:
        return ""
    if refused:
        return "refused"
    return "held" if finish == "length" or output_format.fits(text) else "ignored"


def is_refused(lm: dspy.BaseLM, output_format: OutputFormat) -> bool:
    """Whether an LM's server has refused this format, or all formats of its kind."""
    return not {output_format.kind, output_format.key}.isdisjoint(_refused(lm))


def note(lm: dspy.BaseLM, output_format: OutputFormat, error: BaseException) -> bool:
    """Note that a request was refused for its format; return False, and note nothing, if it was refused for another
    reason."""
    message = " ".join(str(error).split())
    if isinstance(error, dspy.ContextWindowExceededError) or not _NAMED.search(message):
        return False
    own = _THIS_FORMAT.search(message) is not None
    refused, what = _refused(lm), output_format.key if own else output_format.kind
    if what not in refused:
        refused.add(what)
        which = repr(output_format) if own else f"output formats of the kind {output_format.kind!r}"
        logger.warning("%s refuses %s; later requests are sent without: %s", lm.model, which, message[:300])
    return True


def with_format(lm: dspy.BaseLM, request: Request, output_format: OutputFormat) -> Request:
    """Add a format that the LM can enforce to a request without one."""
    if is_served(lm):
        return extended(request, **{OUTPUT: output_format.wire})
    schema = {"type": "json_schema", **output_format.response_format["json_schema"]}
    return changed(request, config=changed(request.config, response_format=schema))


def without_format(request: Request) -> Request:
    """The request without its format."""
    config = request.config
    extensions = {name: value for name, value in (config.extensions or {}).items() if name != OUTPUT}
    return changed(request, config=changed(config, response_format=None, extensions=extensions or None))


def _refused(lm: dspy.BaseLM) -> set[str]:
    """Kinds and keys of the formats that an LM's server has refused: shared by all copies of an endpoint, otherwise
    kept on the LM object."""
    own = getattr(lm, "refused_formats", None)
    return own if isinstance(own, set) else vars(lm).setdefault("_pdr_refused_formats", set())
