"""Special tokens of chat templates that a server left in the text of a completion."""

from __future__ import annotations

import re

from pdr_dspy.text.spans import Spans, fences

TURN_END = "\x1e"
"""Replaces a token that ends a turn, see `without_template`."""
NEXT_TURN = TURN_END * 2
"""Replaces tokens with which the model begins a further turn."""

_BAR = "[|｜]"
_OPENS = rf"<{_BAR}(?:im_start|start_header_id|start|START_OF_TURN_TOKEN){_BAR}>|<start_of_turn>"
_NAMED = (
    "eos|bos|pad|unk|EOT|eot|eop|eod|eoa|eoh|end_of_turn|start_of_turn|end_of_text|endoftext|end_of_utterance|im_end"
    r"|im_start|sep|turn\||\|turn|(?:extra_id_|unused_?)[0-9]{1,3}"
)
_TOKEN = (
    rf"(?:<{_BAR}[^|｜<>\n]{{1,40}}{_BAR}>|\[{_BAR}[a-z_]{{1,40}}{_BAR}\]|</?s>|<(?:{_NAMED})>|\[/?INST\]|<</?SYS>>"
    r"|\[(?:EOS|BOS|PAD|EOT)\])"
)
_ANY = re.compile(_TOKEN)
_OTHERS = re.compile(
    rf"(?:{_OPENS})(?:user|human|system|tool|ipython|observation|environment)\b"
    rf"|<{_BAR}(?:user|system|observation|User|USER_TOKEN|SYSTEM_TOKEN|System|Human){_BAR}>"
)
"""The beginning of another speaker's turn."""
_BEGINNING = re.compile(
    rf"\s*(?:(?:<s>|<bos>|<{_BAR}(?:begin_of_text|begin▁of▁sentence|startoftext|bos){_BAR}>)[ \t]*)+"
)
_TURN = re.compile(
    rf"(?P<opened>(?:[ \t]*{_TOKEN}[ \t]*\n?){{0,3}}(?:{_OPENS})[ \t]*(?:assistant|model|bot|ai)?\b"
    rf"(?:<{_BAR}(?:end_header_id|message){_BAR}>)?[ \t]*\n?)"
    rf"|(?:[ \t]*{_TOKEN})+[ \t]*(?:assistant|user|model|human)?[ \t]*$",
    re.MULTILINE,
)
_END = re.compile(
    rf"<{_BAR}(?:im_end|end_?of_?text|e[oO][tTmMdDsS](?:_id)?|E[OM]T|EOS|end|return|END_OF_TURN_TOKEN|end_of_(?:turn|utterance"
    rf"|sentence|message|document)|end▁of▁sentence|endofprompt|end_of_solution){_BAR}>"
    r"|<(?:end_?of_?(?:turn|text|utterance|sentence)|eos|EOS|EOT|eot|eod|turn\||im_end)>|</s>|\[(?:EOS|EOT)\]"
)
"""Tokens with which models end a text or a turn."""
_ASKED = re.compile(r"(?<![`\"'])\[INST\]")
"""The token of Mistral and Llama 2 before a user's turn."""
_QUOTES = "`\"'”’"
_STRUCK = re.compile(r"<s>[^<\n]{1,2000}</s>(?=[ \t]*[^\s<])")
_BOX = re.compile(r"<\|begin_of_box\|>(.*?)<\|end_of_box\|>", re.DOTALL)


def without_template(text: str) -> str:
    """The text with its special tokens interpreted: ends of lines and, as `TURN_END`, ends of turns.

    Text that a model wrote beyond its own turn, as another speaker, is removed. Behind a token that ends a text
    (`<|endoftext|>`, `</s>`) stands `NEXT_TURN`, also within a line if the token follows directly on the text before
    it. Any other token within a line, or one in quotes or in a closed code block, is only mentioned, and stays. The box
    tokens of GLM become a box.
    """
    if "<" not in text and "[" not in text:
        return text
    if "_of_box|>" in text:
        text = _BOX.sub(r"\\boxed{\1}", text)
    text = text.replace(TURN_END, " ")
    others = _OTHERS.search(text)
    if others and text[: others.start()].strip():
        text = f"{text[: others.start()]}{TURN_END}\n"
    if not _ANY.search(text):
        return text
    if "</s>" in text and _STRUCK.search(text):  # HTML's strike-through element
        return text
    if beginning := _BEGINNING.match(text):
        text = text[beginning.end() :]
    first = len(text) - len(text.lstrip())

    def end(match: re.Match[str]) -> str:
        if match["opened"]:
            return "" if match.start() <= first else f"\n{NEXT_TURN}\n"
        ends = match.start() > first and _END.search(match.group()) is not None
        ends = ends and text[match.end() : match.end() + 400].strip(f" \t\r\n{TURN_END}") != ""
        return f"\n{NEXT_TURN if ends else TURN_END}\n"

    text = _apart(text)
    return _TURN.sub(end, text)


def _apart(text: str) -> str:
    """The text with a line's end behind each token that ends the text within a line."""
    code = Spans(fences(text) if "```" in text or "~~~" in text else ())
    places: list[tuple[int, str]] = []
    for token in _END.finditer(text):
        end = token.end()
        if len(places) >= _MOST:
            break
        if text[end : end + 400].partition("\n")[0].strip() and not code.around(token.start()):
            places += [(end, "\n")] if _follows_directly(text, token.start(), end) else []
    asked = _ASKED.search(text)
    if asked and text[: asked.start()].strip() and not code.around(asked.start()):
        places.append((asked.start(), f"\n{NEXT_TURN}\n"))
    for place, sign in sorted(places, reverse=True):
        text = f"{text[:place]}{sign}{text[place:]}"
    return text


_MOST = 20


def _follows_directly(text: str, start: int, end: int) -> bool:
    """Whether a token stands directly behind the text before it, and not in quotes."""
    before, behind = text[start - 1 : start], text[end : end + 1]
    if not before.strip() or before in "([{<=,:" or (before in _QUOTES and behind in _QUOTES and behind):
        return False
    line = text[max(text.rfind("\n", 0, start) + 1, start - 400) : start]
    rest = text[end : end + 400].partition("\n")[0]
    return not any(line.count(sign) % 2 and rest.count(sign) % 2 for sign in '`"')


def before_token(text: str) -> str:
    """The part of a line before its first special token."""
    token = _ANY.search(text) if "<" in text or "[" in text else None
    return text[: token.start()] if token else text
