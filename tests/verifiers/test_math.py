from __future__ import annotations

import asyncio
import json
import logging
import os
import select
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dspy
import pytest

from pdr_dspy.errors import DataError
from pdr_dspy.verifiers import MathVerifier, NumberVerifier, Score, Verifier

CASES = json.loads((Path(__file__).parents[1] / "golden" / "aime_grading.json").read_text(encoding="utf-8"))


def grade(gold: str, answer: str, verifier: Verifier | None = None) -> Score:
    return (verifier or MathVerifier())(dspy.Example(answer=gold), dspy.Prediction(answer=answer))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['kind']}: {case['why']}")
def test_grades_as_a_person_would(case: dict[str, str]) -> None:
    verifier = NumberVerifier() if case["kind"] == "aime" else MathVerifier(timeout=20)
    assert grade(case["gold"], case["answer"], verifier) == case["correct"]


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case["kind"] == "aime" and case["answer"] != "5^2"][::4])
def test_both_verifiers_agree_on_whole_numbers(case: dict[str, str]) -> None:
    assert grade(case["gold"], case["answer"], MathVerifier(timeout=20)) == case["correct"]


@pytest.mark.slow
def test_every_gold_of_the_list_can_be_graded_against() -> None:
    for case in CASES:
        if case["gold"] != "10:30":
            MathVerifier(timeout=20).check_gold(dspy.Example(answer=case["gold"]))


@pytest.mark.slow
def test_an_unreadable_gold_answer_is_named() -> None:
    with pytest.raises(DataError, match=r"'q9'.*which MathVerifier cannot read"):
        MathVerifier().check_gold(dspy.Example(id="q9", answer=r"\frac{1}{"))


ROW = "&".join(f"x_{{{column}}}" for column in range(10))
HOSTILE = {
    "tower": "9^9^9^9",
    "factorial": "10^9!",
    "power": r"10^{1000000000}",
    "gcd": r"\gcd(10^{100000000},3^{100000000})",
    "binomial": r"\binom{10^9}{5\cdot10^8}",
    "determinant": rf"\begin{{vmatrix}}{chr(92) * 2}{(ROW + chr(92) * 2) * 10}\end{{vmatrix}}",
    "boxes": r"\boxed{" * 50_000,
    "digits": "9" * 200_000,
    "fractions": r"\frac{1}{" * 5_000 + "2" + "}" * 5_000,
    "one letter": "a" * 1_000_000,
    "parentheses": "(" * 4_900 + "1" + ")" * 4_900,
    "code": "__import__('os').abort()",
    "surrogate": "\ud800 4",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_score_nothing_and_leave_the_next_item_alone(name: str) -> None:
    score = grade(r"\sqrt{5}", HOSTILE[name])
    assert score == 0
    assert score.detail
    assert grade(r"2\sqrt{5}", r"\sqrt{20}", MathVerifier(timeout=20)) == 1


@pytest.mark.slow
def test_an_item_out_of_time_is_killed_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "pdr_dspy.verifiers"):
        score = grade("1/x", r"\int_0^1 \frac{\sin(x^3+x)}{\ln(x^2+3)} dx", MathVerifier(timeout=0.2))
    assert (float(score), score.detail) == (0, "timed out after 0.2 s")
    assert "timed out" in caplog.text


@pytest.mark.slow
def test_threads_and_coroutines_each_get_their_own_verdicts() -> None:
    verifier = MathVerifier(timeout=20)
    pairs = [
        (rf"\sqrt{{{number}}}", rf"\frac{{\sqrt{{{4 * number + 4 * (number % 2)}}}}}{{2}}") for number in range(11, 31)
    ]
    expected = [1 - number % 2 for number in range(11, 31)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda pair: grade(pair[0], pair[1], verifier), pairs)) == expected

    async def together() -> list[Score]:
        records = ((dspy.Example(answer=gold), dspy.Prediction(answer=answer)) for gold, answer in pairs)
        return await asyncio.gather(*(asyncio.to_thread(verifier, *record) for record in records))

    assert asyncio.run(together()) == expected


@pytest.mark.slow
def test_a_forked_copy_starts_its_own_workers_and_none_outlives_its_parent() -> None:
    script = """
        import os, signal, sys, time
        import dspy
        from pdr_dspy.verifiers import MathVerifier, grading_pool
        def grade(): return MathVerifier(timeout=20)(dspy.Example(answer="x+1"), dspy.Prediction(answer="1+x"))
        assert grade() == 1
        child = os.fork()
        if child == 0:
            right = grade() == 1
            grading_pool.close()
            os._exit(0 if right else 9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert grade() == 1
        print(*[keeper._process.pid for keeper in grading_pool._pools["math"]._all], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    run = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)]
    with subprocess.Popen(run, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = process.stdout.read().split()
        process.wait()
    assert len(pids) == 1
    assert _ends(int(pids[0]))


def _ends(pid: int) -> bool:
    """Whether a process that is not ours ends within a minute."""
    if not hasattr(os, "pidfd_open"):
        pytest.skip("needs Linux")
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watch], [], [], 60)[0])
    finally:
        os.close(watch)
