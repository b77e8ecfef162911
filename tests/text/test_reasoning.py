"""Thoughts: where they end, in every form, and what only talks about them."""

from __future__ import annotations

import pytest

from pdr_dspy.text.answers import final_answer
from pdr_dspy.text.choices import to_choice
from pdr_dspy.text.reasoning import solution_span, split_thought

ANALYSIS = "<|channel|>analysis<|message|>is it 17?"
FINAL = "<|start|>assistant<|channel|>final<|message|>Answer: 5"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("plain", ("", "plain", False)),
        ("", ("", "", False)),
        ("<think>a</think>b", ("a", "b", False)),
        ("\n <think>\na\n</think>\n\nb\n", ("a", "b", False)),
        ("<thinking>a</thinking>b", ("a", "b", False)),
        ("<THINK>a</Think>b", ("a", "b", False)),
        ("a</think>b", ("a", "b", False)),
        ("a</thinking>b", ("a", "b", False)),
        ("<think>a", ("a", "", True)),
        ("<thinking>a", ("a", "", True)),
        ("<think>a</think><think>b</think>c", ("ab", "c", False)),
        ("<think>a</think>b</think>c", ("ab", "c", False)),
        ("<think>a</think><think>b", ("ab", "", True)),
        ("<think>so `5`</think>```python\n5\n```", ("so `5`", "```python\n5\n```", False)),
        (f"{ANALYSIS}<|end|>{FINAL}<|return|>", ("is it 17?", "Answer: 5", False)),
        (f"{ANALYSIS}<|end|>{FINAL}", ("is it 17?", "Answer: 5", False)),
        (f"<|start|>assistant{ANALYSIS}<|end|>{FINAL}", ("is it 17?", "Answer: 5", False)),
        (f"is it 17?<|end|>{FINAL}<|return|>", ("is it 17?", "Answer: 5", False)),
        ("<|channel|>final<|message|>Answer: 5", ("", "Answer: 5", False)),
        ('<|channel|>final <|constrain|>json<|message|>{"answer": 5}', ("", '{"answer": 5}', False)),
        (ANALYSIS, ("is it 17?", "", True)),
        (f"{ANALYSIS}<|end|>", ("is it 17?", "", True)),
    ],
)
def test_thoughts_are_split_off(text: str, parts: tuple[str, str, bool]) -> None:
    assert split_thought(text) == parts


@pytest.mark.parametrize(
    "text",
    [
        "A model opens its thought with <think> and says 5.\nAnswer: 5",
        "Write <think>hm</think> first.\nAnswer: 5",
        "```xml\n<thinking>hm</thinking>\n```\nAnswer: 5",
        "The tag `</think>` closes it.\nAnswer: 5",
        "`<think>` opens, `</think>` closes.\nAnswer: 5",
        "gpt-oss writes <|channel|>analysis<|message|> before its thought.\nAnswer: 5",
    ],
)
def test_a_solution_that_mentions_tags_is_not_cut(text: str) -> None:
    assert split_thought(text) == ("", text, False)
    assert split_thought(f"<think>17</think>{text}") == ("17", text, False)
    assert final_answer(text) == "5"


@pytest.mark.parametrize(
    "thought", ["<think>{}</think>", "<thinking>{}</thinking>", "{}</think>", f"{ANALYSIS}{{}}<|end|>{FINAL[:-9]}"]
)
def test_answers_are_read_after_the_thought(thought: str) -> None:
    assert final_answer(thought.format(r"\boxed{17}") + "So: \\boxed{5}") == "5"
    assert final_answer(thought.format(r"\boxed{17}")) is None
    assert to_choice(thought.format("A or B?") + "B", ["A", "B"]) == "B"


@pytest.mark.parametrize("opener", ["<think>", "<thinking>", "<|channel|>analysis<|message|>"])
def test_an_unfinished_thought_holds_no_answer(opener: str) -> None:
    assert solution_span(f"{opener}Answer: 5\n") is None
    assert final_answer(f"{opener}Answer: 5\n") is None
    assert to_choice(f"{opener}B", ["A", "B"]) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece", ["<think>", "</think>", "<think></think>", "`<think>`", "<|channel|>", "<|end|>", " <"]
)
def test_hostile_texts_end(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    thought, solution, unfinished = split_thought(text)
    assert len(thought) + len(solution) <= len(text)
    assert not (unfinished and solution)
