"""The files of `programs/`: they build, their verifier grades their data; the one-page PDR agrees with the library."""

from __future__ import annotations

import base64
import importlib
import json
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import dspy
import pytest

from pdr_dspy import datasets
from pdr_dspy.errors import ConfigError, DataError
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.operators.strategies import PDR
from pdr_dspy.testing import ScriptedRequest, count_words, scripted_lm
from programs import arithmetic, code, from_scratch, humaneval, livecodebench, mbpp

NAMES = sorted(path.stem for path in Path("programs").glob("*.py") if path.stem not in ("__init__", "from_scratch"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hub sets without the hub: rows of our own in each set's place."""

    def load(
        name: str, *, split: str | None = None, limit: int | None = None, seed: int = 0, fields: object = None
    ) -> list[dspy.Example]:
        if name == mbpp.HUB:
            return [mbpp_row(split, number) for number in range(20)][:limit]
        count = {"aime24": 30, "aime25": 30, "math500": 500, "gsm8k": 600}[name]
        made = [
            dspy.Example(question=f"{name} {split} {i}?", answer=str(i), id=f"{name}/{split}/{i}") for i in range(count)
        ]
        return [one.with_inputs("question") for one in made][:limit]

    monkeypatch.setattr(livecodebench, "rows", lambda file: [livecodebench_row(file, number) for number in range(20)])
    real = datasets.load
    monkeypatch.setattr(datasets, "load", lambda name, **how: (real if name.startswith("rg:") else load)(name, **how))


def mbpp_row(split: str | None, number: int) -> dspy.Example:
    tests = [f"assert add_{number}({x}) == {x + number}" for x in (1, 2, 3)]
    code = f"def add_{number}(x):\n    return x + {number}\n"
    question = f"Write a function that adds {number} to a number."
    return dspy.Example(
        id=f"{split}/{number}", question=question, answer=code, test_list=tests, test_imports=["import math"]
    )


def livecodebench_row(file: str, number: int) -> dict[str, str]:
    tests = json.dumps([{"input": f"{x}\n", "output": f"{x + number}\n", "testtype": "stdin"} for x in (3, 4)])
    packed = base64.b64encode(zlib.compress(pickled(tests))).decode()
    public = json.dumps([{"input": "1\n", "output": f"{1 + number}\n", "testtype": "stdin"}])
    return {
        "question_id": f"{file}/{number}",
        "question_content": f"Add {number}.",
        "starter_code": "",
        "public_test_cases": public,
        "private_test_cases": packed,
        "metadata": "{}",
        "answer": f"print(int(input()) + {number})",
    }


def pickled(text: str) -> bytes:
    """What `pickle.dumps(text)` writes."""
    data = text.encode()
    return b"\x80\x04X" + struct.pack("<I", len(data)) + data + b"\x94."


@pytest.mark.parametrize("name", NAMES)
def test_a_program_has_data_a_verifier_and_a_program(name: str, hub: None) -> None:
    module = importlib.import_module(f"programs.{name}")
    program, verifier = module.build(), module.verifier()
    assert isinstance(program, Operator)
    ids: set[str] = set()
    for split in ("train", "dev", "test"):
        examples = module.data(split, limit=8)
        assert len(examples) == 8
        for example in examples:
            verifier.check_gold(example)
            assert set(program.task.input_fields) <= set(example.inputs().keys())
            assert verifier(example, dspy.Prediction(**{verifier.field: example.answer})) == 1.0
        assert not ids & {example.id for example in examples}
        ids |= {example.id for example in examples}
    with pytest.raises(ConfigError, match="the splits are train, dev, test"):
        module.data("validation")


def test_humaneval_is_all_there() -> None:
    problems = humaneval.all_problems()
    assert len({problem.id for problem in problems}) == 164
    assert sum(len(humaneval.data(split)) for split in humaneval.SHARES) == 121


def test_hidden_tests_are_read_without_unpickling() -> None:
    tests = [{"input": "1", "output": "2"}]
    packed = base64.b64encode(zlib.compress(pickled(json.dumps(tests)))).decode()
    assert livecodebench.hidden_tests(packed) == livecodebench.hidden_tests(json.dumps(tests)) == tests
    hostile = base64.b64encode(zlib.compress(b"cos\nsystem\n(S'echo x'\ntR.")).decode()
    for wrong in (hostile, "no base64", base64.b64encode(b"x").decode()):
        with pytest.raises(DataError, match="hidden tests cannot be read"):
            livecodebench.hidden_tests(wrong)


def test_tasks_of_a_file_are_read_with_their_line_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text(
        "".join(json.dumps({"id": n, "prompt": f"p {n}", "test": f"assert f() == {n}"}) + "\n" for n in range(5))
    )
    monkeypatch.setenv("CODE_TASKS", str(file))
    assert sum(len(code.data(split)) for split in ("train", "dev", "test")) == 5
    file.write_text('{"prompt": "p"}\n')
    with pytest.raises(DataError, match="line 1: no test"):
        code.read(file)
    file.write_text('{"prompt": "p", "test": "t", "id": 1}\n' * 2)
    with pytest.raises(DataError, match="repeats an id"):
        code.read(file)


def test_arithmetic_splits_share_no_question() -> None:
    questions = {split: {example.question for example in arithmetic.data(split)} for split in arithmetic.SIZES}
    for split, size in arithmetic.SIZES.items():
        assert len(questions[split]) == size * len(arithmetic.SETS)
    assert not questions["train"] & questions["test"]
    assert not questions["train"] & questions["dev"]
    assert not questions["dev"] & questions["test"]


def test_arithmetic_is_the_same_every_time_and_other_with_another_seed() -> None:
    first = [example.question for example in arithmetic.data("dev", limit=6)]
    assert [example.question for example in arithmetic.data("dev", limit=6)] == first
    assert [example.question for example in arithmetic.data("dev", limit=6, seed=1)] != first


# --- the page without the library, against the library ---------------------------------------------------------------


def reply(prompt: str, index: int) -> str:
    """A reply that depends on its place and on what it reads: one wrong workspace changes all that follows."""
    read = [int(number) for number in re.findall(r"Answer: (\d+)", prompt)]
    answer = (3 * sum(read) + 7 * index + len(read)) % 1000 if read else 100 + index
    return f"I have seen {len(read)} attempts; here is one of my own.\nAnswer: {answer}"


def by_library(schedule: Schedule) -> dspy.Prediction:
    def scripted(request: ScriptedRequest) -> str:
        return reply(request.user, request.seed % 256)  # siblings have consecutive seeds

    with dspy.context(lm=scripted_lm(scripted)):
        return PDR("question -> answer: int", schedule)(question="What is it?")


def by_hand(schedule: Schedule, choose: Callable[[int, int, int, int], Sequence[int]] | None) -> from_scratch.Trace:
    return from_scratch.pdr(
        "What is it?",
        lambda prompt, seed: reply(prompt, seed % 256),
        widths=schedule.widths,
        k=schedule.k,
        kappa=schedule.kappa,
        choose=choose,
        count=count_words,
    )


@pytest.mark.parametrize(("widths", "k"), [((4, 1), 2), ((5, 3, 1), 2), ((8, 4, 2, 1), 2), ((3, 3, 1), 3)])
def test_one_page_and_the_library_agree(widths: tuple[int, ...], k: int) -> None:
    schedule = Schedule(widths=widths, distiller="random_k", k=k, draft_tokens=64)
    library = by_library(schedule)

    def as_the_library_chose(round_: int, reader: int, width: int, k: int) -> Sequence[int]:
        chosen = library.rounds[round_ - 1].workspaces[reader].sources
        assert len(set(chosen)) == k
        assert set(chosen) <= set(range(width))
        return chosen

    page = by_hand(schedule, as_the_library_chose)
    assert page.drafts == [[draft.solution for draft in round_.drafts] for round_ in library.rounds]
    assert page.workspaces == [[space.text for space in round_.workspaces] for round_ in library.rounds[:-1]]
    assert page.answer == str(library.answer)


def test_the_page_chooses_k_different_drafts_by_its_seed() -> None:
    schedule = Schedule(widths=(6, 4, 1), distiller="random_k", k=3, draft_tokens=64)
    page = by_hand(schedule, None)
    assert [len(drafts) for drafts in page.drafts] == [6, 4, 1]
    for text in page.workspaces[0]:
        bodies = re.findall(r"Answer: (\d+)", text)
        assert len(set(bodies)) == 3
    assert page.workspaces == by_hand(schedule, None).workspaces
    assert len(set(page.workspaces[0])) > 1


def test_the_page_counts_the_longest_call_of_each_round() -> None:
    long = {0: "one two three\nAnswer: 5", 1: "one\nAnswer: 5", 256: "Answer: 5"}
    page = from_scratch.pdr("Q", lambda prompt, seed: long[seed], widths=(2, 1), k=2, count=count_words)
    first = count_words(from_scratch.DRAFT.format(question="Q"))
    second = count_words(from_scratch.REFINE.format(question="Q", workspace=page.workspaces[0][0]))
    assert page.sequential == first + 6 + second + 3
    assert page.total == 2 * first + 6 + 4 + second + 3


def test_the_page_keeps_kappa_and_the_end_of_each_solution() -> None:
    solutions = [" ".join(f"w{i}" for i in range(200)) + f"\nAnswer: {n}" for n in (1, 2)]
    text = from_scratch.bounded(solutions, 60, count_words)
    assert count_words(text) <= 60
    assert re.findall(r"Answer: (\d)", text) == ["1", "2"]


def test_the_page_takes_the_last_answer() -> None:
    assert from_scratch.read_answer("Answer: 3\nNo.\nAnswer: 1,024") == "1024"
    assert from_scratch.read_answer("I give up") is None
