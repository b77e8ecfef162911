"""A policy for tests: a function from the prompt's text to a completion, with one token a character."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pdr_dspy.training.types import Sampled

END = 0
"""The end-of-turn token."""


class Characters:
    """A tokenizer without a chat template."""

    chat_template = None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(chr(token) for token in ids if token != END)


class ScriptedPolicy:
    """Answers with `reply(prompt, number)`, where `number` counts completions from 0; `sent` has what it was asked."""

    def __init__(self, reply: Callable[[str, int], str]) -> None:
        self.tokenizer = Characters()
        self.reply = reply
        self.sent: list[tuple[list[str], list[int], float]] = []
        self.served = 0

    def generate(self, prompts: list[list[int]], caps: list[int], temperature: float) -> list[Sampled]:
        texts = [self.tokenizer.decode(ids) for ids in prompts]
        self.sent.append((texts, list(caps), temperature))
        sampled = []
        for text, cap in zip(texts, caps, strict=True):
            ids = [*self.tokenizer.encode(self.reply(text, self.served)), END]
            self.served += 1
            finish = "stop" if len(ids) <= cap else "length"
            sampled.append(Sampled(ids[:cap], [-0.5] * len(ids[:cap]), finish))
        return sampled

    @property
    def batches(self) -> list[int]:
        return [len(prompts) for prompts, _, _ in self.sent]
