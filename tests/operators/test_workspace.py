from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdr_dspy.operators.workspace import CUT, Draft, candidates, fit
from pdr_dspy.testing import count_words
from pdr_dspy.text.token_estimate import estimate_tokens
from tests.support.solver import count, wait

nasty = st.one_of(
    st.text(max_size=300),
    st.text(alphabet="ab \n.", max_size=2000),
    st.sampled_from(
        [
            "",
            " ",
            "\n\n",
            "x" * 5000,
            "1 " * 3000,
            "。" * 900,
            "\x00" * 40,
            "👩‍👩‍👧 " * 200,
            "a\n" * 900,
            "{}[]<>\\" * 300,
        ]
    ),
)


def draft(solution: str, *, truncated: bool = False) -> Draft:
    return Draft(round=1, index=0, solution=solution, truncated=truncated)


@pytest.mark.slow
@settings(max_examples=120)
@given(st.lists(nasty, max_size=7), st.integers(1, 400), st.sampled_from(["start", "end"]), st.booleans())
def test_a_workspace_never_exceeds_kappa(texts: list[str], kappa: int, keep: str, headed: bool) -> None:
    blocks = candidates([draft(text) for text in texts]) if headed else texts
    text, tokens, cut = wait(fit(blocks, kappa, count, keep=keep))  # type: ignore[arg-type]
    assert tokens == count_words(text) <= kappa
    if not cut:
        assert text == "\n\n".join(blocks)


async def characters(texts: list[str]) -> list[int]:
    """A counter that neither adds up nor grows evenly, as a tokenizer with merges does not."""
    return [len(text) + (7 if len(text) % 5 else 0) for text in texts]


@given(st.lists(st.text(max_size=200), max_size=5), st.integers(1, 300))
def test_nor_with_a_counter_that_does_not_add_up(texts: list[str], kappa: int) -> None:
    text, tokens, _ = wait(fit(texts, kappa, characters, keep="end"))  # type: ignore[arg-type]
    assert not text or tokens == wait(characters([text]))[0] <= kappa


def test_short_blocks_stay_whole_and_long_ones_share_the_room() -> None:
    long, unfinished = draft("step. " * 200 + "\nAnswer: 2"), draft("go. " * 200 + "\nAnswer: 3", truncated=True)
    blocks = candidates([draft("Answer: 1"), long, unfinished])
    text, _, cut = wait(fit(blocks, 120, count, keep="end"))
    assert cut
    assert text.startswith("Candidate 1:\nAnswer: 1\n\nCandidate 2:\n" + CUT)
    assert "Candidate 3 (unfinished):" in text
    assert "Answer: 2" in text
    assert text.endswith("Answer: 3")


def test_the_end_of_one_long_line_is_kept() -> None:
    text, tokens, cut = wait(fit(["word " * 1000 + "Answer: 7"], 50, count, keep="end"))
    assert cut
    assert text.endswith("Answer: 7")
    assert 20 < tokens <= 50


def test_the_start_of_a_summary_is_kept() -> None:
    text, _, cut = wait(fit(["First. " + "Then more. " * 100], 30, count, keep="start"))
    assert cut
    assert text.startswith("First. Then more.")
    assert text.endswith(".")


def test_blocks_that_would_be_cut_to_nothing_are_left_out_from_the_last() -> None:
    blocks = candidates([draft(f"solution number {n} of a few words. Answer: {n}") for n in range(40)])
    text, tokens, cut = wait(fit(blocks, 60, count, keep="end"))
    assert cut
    assert 0 < tokens <= 60
    assert "Candidate 1:" in text
    assert "Candidate 40:" not in text


def test_nothing_gives_nothing() -> None:
    assert wait(fit([], 10, count, keep="end")) == ("", 0, False)
    assert wait(fit(["  "], 10, count, keep="end")) == ("", 0, True)


@pytest.mark.parametrize("text", ["", "word", "1234567890", "été", "x = 3\n\n", "日本語", "\ud800"])
def test_the_estimate_is_never_below_a_count_of_words(text: str) -> None:
    assert estimate_tokens(text) >= len(text.split())
    assert estimate_tokens("1" * 30) == 30
