"""Fast searches that come before a pattern let through every line in which the pattern matches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pdr_dspy.text import labels
from pdr_dspy.text.quoting import sheltered

COMPLETIONS = [
    json.loads(line)["completion"]
    for line in (Path(__file__).parents[1] / "cases" / "reading.jsonl").read_text(encoding="utf-8").splitlines()
]


def test_a_label_in_a_line_has_a_sign_and_a_sentence_has_a_verb() -> None:
    found = {"label": 0, "sentence": 0}
    for completion in COMPLETIONS:
        text = labels.shadow(completion)
        languages = labels.languages_in(text.lower())
        for line in text.split("\n") if languages else ():
            if labels.inline_label(languages).search(line):
                found["label"] += 1
                assert labels.INLINE_SIGN.search(line), line
            if labels.sentence(languages).search(line):
                found["sentence"] += 1
                assert labels.has_verb(line, languages), line
    assert min(found.values()) > 300


@pytest.mark.parametrize(
    "line",
    [
        *("The answer isn't 41 but 42.", "The answer\tis 42", "**The answer**is 42", "*The answer* is 42", "answer=42"),
        *("THE FINAL ANSWER WOULD BE 42", "The correct result comes out to be 42", "Die Antwort lautet 42"),
    ],
)
def test_verbs_are_found_behind_any_separator(line: str) -> None:
    languages = labels.languages_in(line.lower())
    assert labels.sentence(languages).search(line)
    assert labels.has_verb(line, languages)


def test_a_line_without_a_verb_is_not_searched_for_a_sentence() -> None:
    assert not labels.has_verb("this result then goes to the total", (0,))
    assert not labels.INLINE_SIGN.search("this result then goes to the total")


@pytest.mark.parametrize(
    "line",
    [
        *(
            "Candidate 3:",
            "candidates",
            "- WORKSPACE:",
            "**Flaws found**:",
            "Answers of all attempts: 42",
            "Check result: 1",
        ),
        *("Write the steps first. Then end with exactly these 2 lines", "End with one line of exactly this form:"),
        *("Reply with the text alone", "QUESTION: 1 + 1?", "Frage : 1 + 1?", "Größe: 3"),
    ],
)
def test_every_heading_of_a_prompt_is_quoted(line: str) -> None:
    assert sheltered(f"So.\n{line}", ("Question", "Frage", "Größe"), among=True) == f"So.\n> {line}"
