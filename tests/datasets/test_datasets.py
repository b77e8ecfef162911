from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy import datasets
from pdr_dspy.datasets import hub as hub_module
from pdr_dspy.errors import ConfigError, DataError
from pdr_dspy.verifiers import MathVerifier, ProceduralVerifier, load_verifier

ROWS = [{"problem": f"What is {number} + 1?", "answer": number + 1, "level": 2} for number in range(6)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


# -------------------------------------------------------------------------------------------------------- local files


@pytest.mark.slow
def test_every_kind_of_file_gives_the_same_examples(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    jsonl = write(tmp_path / "sums.jsonl", ROWS)
    (tmp_path / "sums.json").write_text(json.dumps(ROWS))
    (tmp_path / "sums.csv").write_text(
        "problem,answer,level\n" + "".join(f"{r['problem']},{r['answer']},2\n" for r in ROWS)
    )
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "sums.parquet")
    loaded = [datasets.load(jsonl.with_suffix(kind)) for kind in (".jsonl", ".json", ".csv", ".parquet")]
    for examples in loaded:
        assert [(e.question, e.answer, e.id) for e in examples] == [
            (row["problem"], str(row["answer"]), f"sums/{number}") for number, row in enumerate(ROWS, start=1)
        ]
        assert dict(examples[0].inputs()) == {"question": "What is 0 + 1?"}
        assert int(examples[0].level) == 2
    assert loaded[0][0].source == str(jsonl)


def test_columns_are_recognised_or_named(tmp_path: Path) -> None:
    rows = [{"Question": "q", "solution": "long", "final_answer": "7", "unique_id": "a", "source": "book"}]
    (example,) = datasets.load(write(tmp_path / "a.jsonl", rows))
    assert (example.question, example.answer, example.id) == ("q", "7", "a/a")
    assert (example.solution, example.original_source) == ("long", "book")
    rows = [{"text": "q", "y": 7.0, "key": 3}]
    path = write(tmp_path / "b.jsonl", rows)
    (example,) = datasets.load(path, fields={"question": "text", "answer": "y", "id": "key"})
    assert (example.question, example.answer, example.id) == ("q", "7", "b/3")


def test_limit_and_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "sums.jsonl", ROWS)
    whole = datasets.load(path)
    assert [e.id for e in datasets.load(path, limit=2)] == [e.id for e in whole[:2]]
    shuffled = datasets.load(path, seed=3)
    assert [e.id for e in shuffled] != [e.id for e in whole]
    assert [e.id for e in datasets.load(path, seed=3, limit=2)] == [e.id for e in shuffled[:2]]
    assert datasets.fingerprint(shuffled) == datasets.fingerprint(whole)
    assert datasets.fingerprint(whole[1:]) != datasets.fingerprint(whole)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "has no rows"),
        ("a.jsonl", '{"question": "q", "answer": NaN}', r"line 1: the column 'answer' \(`answer`\) is empty"),
        ("a.jsonl", '{"question": "q"}', "line 1: a column for `answer` is missing, the columns are question"),
        ("a.jsonl", '{"question": "q", "answer": "1"}\n{"question": "", "answer": "1"}', "line 2: .*is empty"),
        ("a.jsonl", '{"question": "q", "answer": "1"}\n{"question', "line 2: not valid JSON"),
        ("a.jsonl", "[1]", "line 1: expected an object"),
        (
            "a.jsonl",
            '{"question": "q", "answer": "1", "id": 4}\n{"question": "r", "answer": "1", "id": 4}',
            "must be unique",
        ),
        ("a.json", '{"question": "q"}', "expected a list of objects"),
        ("a.csv", "question,gold\nq,\n", "line 2: the column 'gold' .* is empty"),
        ("a.parquet", "text", "not a readable Parquet file"),
    ],
)
def test_an_unusable_file_is_explained(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        datasets.load(path)


LONG = "7" * 5000
WIDE = "x" * 200_000


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_a_number_of_any_length_is_read(tmp_path: Path, kind: str) -> None:
    row = f'{{"question": {LONG}, "answer": -{LONG}, "id": {LONG}, "more": [{LONG}, 1]}}'
    (tmp_path / f"a.{kind}").write_text(f"[{row}]" if kind == "json" else row)
    (example,) = datasets.load(tmp_path / f"a.{kind}")
    assert (example.question, example.answer, example.id) == (LONG, f"-{LONG}", f"a/{LONG}")
    assert example.more == [LONG, 1]
    assert len(datasets.fingerprint([example])) == 64


def test_an_id_that_is_not_a_number_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "q", "answer": "1", "id": NaN}')
    (example,) = datasets.load(tmp_path / "a.jsonl")
    assert example.id == "a/1"


def test_a_csv_field_of_any_length_is_read_and_the_limit_of_others_stays(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    (tmp_path / "a.csv").write_text(f'question,answer\n"{WIDE}\n{WIDE}",1\nq,"{WIDE}"\n')
    first, second = datasets.load(tmp_path / "a.csv")
    assert (first.question, second.answer) == (f"{WIDE}\n{WIDE}", WIDE)
    assert csv.field_size_limit() == before
    (tmp_path / "a.csv").write_bytes(b"question,answer\n\xff,1\n")
    with pytest.raises(DataError, match="not UTF-8"):
        datasets.load(tmp_path / "a.csv")
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        ([None, None, None], ["1", "2", "3"]),
        (["b", None, None], ["b", "2", "3"]),
        ([2, None, None], ["2", "row 2", "3"]),
        (["3", 2, None], ["3", "2", "row 3"]),
        ([None, 1, "row 1"], ["row row 1", "1", "row 1"]),
        ([0, False, ""], ["0", "False", "3"]),
    ],
)
def test_rows_without_ids_stand_beside_rows_with_numbers_for_ids(
    tmp_path: Path, ids: list[Any], names: list[str]
) -> None:
    rows = [{"question": "q", "answer": "a", **({} if given is None else {"id": given})} for given in ids]
    found = datasets.load(write(tmp_path / "a.jsonl", rows))
    assert [example.id for example in found] == [f"a/{name}" for name in names]


def test_a_file_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.jsonl", ROWS)
    assert len(datasets.load("~/a.jsonl")) == len(ROWS)


def test_an_undecodable_or_missing_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        datasets.load(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="no such file"):
        datasets.load(tmp_path / "b.jsonl")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: datasets.load("gsm8"), "did you mean 'gsm8k'"),
        (lambda: datasets.load("nothing like it"), "Known: aime24"),
        (lambda: datasets.load("gsm8k", split="validation"), "its splits are train, test"),
        (lambda: datasets.load("gsm8k", size=3), "`size` does not apply to a set of fixed rows"),
        (lambda: datasets.load("gsm8k", limit=0), "at least 1"),
        (lambda: datasets.load("gsm8k", limit=2.0), "limit=2.0.*must be a whole number"),  # type: ignore[arg-type]
        (lambda: datasets.load("gsm8k", seed="x"), "seed='x'.*must be a whole number"),  # type: ignore[arg-type]
        (lambda: datasets.load("a.jsonl", split="train"), "`split` does not apply"),
        (lambda: datasets.info("gsm8"), "did you mean"),
    ],
)
def test_a_wrong_argument_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


# ---------------------------------------------------------------------------------------------------------------- hub

HUB_ROWS: dict[str, list[dict[str, Any]]] = {
    "aime24": [
        {
            "id": 60,
            "problem": r"Every morning Aya goes for a $9$-kilometer-long walk ...",
            "solution": r"... Hence \boxed{204}.",
            "answer": "204",
            "url": "https://artofproblemsolving.com/wiki/index.php/2024_AIME_I_Problems/Problem_1",
            "year": "2024",
        },
        {"id": 61, "problem": "Let $ABC$ ...", "solution": "...", "answer": "033", "url": "", "year": "2024"},
    ],
    "aime25": [
        {"problem": r"Find the sum of all integer bases $b>9$ ...", "answer": "70", "id": "0"},
        {"problem": "On triangle ...", "answer": "588", "id": "1"},
    ],
    "math500": [
        {
            "problem": r"Convert the point $(0,3)$ in rectangular coordinates to polar coordinates ...",
            "solution": "...",
            "answer": answer,
            "subject": "Precalculus",
            "level": 2,
            "unique_id": f"test/precalculus/{number}.json",
        }
        for number, answer in enumerate(
            [
                *(r"\left( 3, \frac{\pi}{2} \right)", "p - q", r"\frac{14}{3}", r"\text{Evelyn}", r"6 - 5i", "50"),
                *(r"\pi", r"28", r"3\sqrt{13}", "1,-2", r"\text{even}", r"[-2,7]", "x^3+3x-6", r"\frac{3\sqrt{3}}{4}"),
                *(r"\begin{pmatrix} -1/3 \\ 2/3 \\ 5/3 \end{pmatrix}", r"\dfrac{9}{7}", "2516_8", "y = 2x + 3"),
                *(r"90^\circ", r"10\%", r"\text{(C)}", r"(-\infty,-4)\cup(-4,\infty)", r"11,\! 111,\! 111,\! 100"),
                *(r"\{1\pm\sqrt{5},-2\}", r"\left\{-\frac{1}{2}, 3\right\}", r"5.4 \text{ cents}", r"\$18.90"),
            ]
        )
    ],
    "gsm8k": [
        {"question": "Natalia sold clips ...", "answer": "She sold 48/2 = <<48/2=24>>24 clips.\n#### 72"},
        {"question": "A house costs ...", "answer": "It rose by 150%.\n#### 70,000"},
    ],
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The hub's client, answering with rows in the sets' own shape."""
    client = pytest.importorskip("datasets")
    calls: list[tuple[Any, ...]] = []

    def load_dataset(path: str, config: str | None = None, *, split: str) -> list[dict[str, Any]]:
        calls.append((path, config, split))
        return next(HUB_ROWS[name] for name in HUB_ROWS if datasets.info(name).hub == path)

    monkeypatch.setattr(client, "load_dataset", load_dataset)
    monkeypatch.setattr(hub_module, "_hub_answers", lambda: True)
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("name", datasets.names())
def test_every_gold_of_a_hub_set_passes_its_own_verifier(name: str, hub: list[tuple[Any, ...]]) -> None:
    known = datasets.info(name)
    examples = datasets.load(name)
    assert hub == [(known.hub, known.config, known.split)]
    assert len(examples) == len(HUB_ROWS[name])
    patience = {"timeout": 60} if known.verifier == "MathVerifier" else {}
    verifier = load_verifier({"kind": known.verifier, **patience})
    for example in examples:
        verifier.check_gold(example)
        assert verifier(example, dspy.Prediction(answer=example.answer)) == 1, example
        assert verifier(example, dspy.Prediction(answer=rf"So it is $\boxed{{{example.answer}}}$.")) == 1, example
        assert verifier(example, dspy.Prediction(answer="31415926")) == 0, example
    json.dumps(known.describe())


@pytest.mark.slow
def test_hub_rows_keep_what_they_carry(hub: list[tuple[Any, ...]]) -> None:
    house = datasets.load("gsm8k", split="train")[1]
    assert (house.answer, house.solution, house.id) == ("70000", "It rose by 150%.", "gsm8k/train/2")
    assert hub == [("openai/gsm8k", "main", "train")]
    walk = datasets.load("aime24", limit=1)[0]
    assert (walk.id, walk.source, walk.year) == ("aime24/60", "HuggingFaceH4/aime_2024:train", "2024")
    assert datasets.load("math500")[0].id == "math500/test/precalculus/0.json"


def test_without_the_hub_one_sentence_names_the_local_alternative(
    hub: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets as client
    from huggingface_hub import constants

    seen: list[bool] = []

    def load_dataset(*_: Any, **__: Any) -> None:
        seen.append(constants.HF_HUB_OFFLINE)
        raise ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub")

    monkeypatch.setattr(client, "load_dataset", load_dataset)
    monkeypatch.setattr(hub_module, "_hub_answers", lambda: False)
    before = constants.HF_HUB_OFFLINE
    with pytest.raises(DataError, match=r'does not answer.*give a local file instead: `load\("gsm8k.jsonl"\)`'):
        datasets.load("gsm8k")
    assert seen == [True]  # no retries against a hub that is not there
    assert constants.HF_HUB_OFFLINE is before


# --------------------------------------------------------------------------------------------------------- procedural

TASKS = ("chain_sum", "countdown", "gcd", "simple_equations", "polynomial_multiplication", "number_sorting", "rearc")


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_gold_of_a_procedural_set_passes_its_own_verifier(task: str) -> None:
    pytest.importorskip("reasoning_gym")
    examples = datasets.load(f"rg:{task}", size=3, seed=1)
    verifier = load_verifier({"kind": datasets.info(f"rg:{task}").verifier, "timeout": 60})
    assert isinstance(verifier, ProceduralVerifier)
    for example in examples:
        json.dumps(dict(example.items()))
        verifier.check_gold(example)
        assert verifier(example, dspy.Prediction(answer=example.answer)) == 1
        assert verifier(example, dspy.Prediction(answer="no idea")) == 0


@pytest.mark.slow
def test_procedural_sets_are_seeded_distinct_and_disjoint() -> None:
    pytest.importorskip("reasoning_gym")
    options = {"min_terms": 4, "max_terms": 5, "min_digits": 2, "max_digits": 3}
    first = datasets.load("rg:chain_sum", size=60, seed=1, options=options)
    again = datasets.load("rg:chain_sum", size=60, seed=1, options=options)
    other = datasets.load("rg:chain_sum", size=60, seed=2, options=options)
    assert datasets.fingerprint(first) == datasets.fingerprint(again)
    assert len({e.question for e in first + other}) == 120
    assert len({e.id for e in first + other + datasets.load("rg:chain_sum", size=60, seed=1)}) == 180
    with pytest.raises(DataError, match=r"only .* different questions"):
        datasets.load("rg:chain_sum", size=300, options={"max_terms": 2, "max_digits": 1})


def test_a_wrong_procedural_task_or_option_is_named() -> None:
    pytest.importorskip("reasoning_gym")
    with pytest.raises(ConfigError, match="near it: rg:chain_sum"):
        datasets.load("rg:chain_sums")
    with pytest.raises(ConfigError, match="refuses"):
        datasets.load("rg:chain_sum", options={"terms": 3})
    with pytest.raises(DataError, match="no gold answer"):
        datasets.load("rg:graph_color", size=1)
    assert "rg:chain_sum" in datasets.names(procedural=True)


# -------------------------------------------------------------------------------------------------------------- split


def test_split_is_disjoint_and_seeded(tmp_path: Path) -> None:
    examples = datasets.load(write(tmp_path / "sums.jsonl", ROWS))
    train, val = datasets.split(examples, 4, 2, seed=1)
    assert (len(train), len(val)) == (4, 2)
    assert {e.id for e in train + val} == {e.id for e in examples}
    assert [e.id for e in datasets.split(examples, 4, 2, seed=1)[0]] == [e.id for e in train]
    assert [len(part) for part in datasets.split(examples, 0.5, 0.5)] == [3, 3]
    for parts, message in [
        ((4, 3), "needs 7 examples"),
        ((0.9, 0.2), "at most 1"),
        ((2, 0.5), "mixes"),
        ((0.01,), "empty"),
        ((), "one"),
    ]:
        with pytest.raises(ConfigError, match=message):
            datasets.split(examples, *parts)


def test_a_set_of_expressions_is_for_the_math_verifier() -> None:
    assert load_verifier({"kind": datasets.info("math500").verifier}) == MathVerifier()


# ------------------------------------------------------------------------------------------- any other set of the hub


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The hub's client over sets of a test's own: repository to split to rows."""
    client = pytest.importorskip("datasets")
    sets: dict[str, dict[str, list[dict[str, Any]]]] = {}

    def load_dataset(path: str, config: str | None = None, *, split: str | None) -> Any:
        found = sets[path if config is None else f"{path}/{config}"]
        return found if split is None else found[split]

    monkeypatch.setattr(client, "load_dataset", load_dataset)
    monkeypatch.setattr(hub_module, "_hub_answers", lambda: True)
    return sets


@pytest.mark.slow
def test_a_set_of_the_hub_is_read_by_its_repository(anywhere: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
    anywhere["me/sums"] = {"train": ROWS[:4], "test": ROWS[4:]}
    anywhere["me/sums/hard"] = {"validation": [{"text": "q", "y": 5, "problem": "no"}]}
    examples = datasets.load("hub:me/sums")
    first = examples[0]
    assert (first.question, first.answer, first.id, first.source) == (
        "What is 4 + 1?",
        "5",
        "me/sums/test/1",
        "me/sums:test",
    )
    assert len(datasets.load("hub:me/sums", split="train", limit=3)) == 3
    (only,) = datasets.load("hub:me/sums/hard", fields={"question": "text", "answer": "y"})
    assert (only.question, only.answer, only.id) == ("q", "5", "me/sums/hard/validation/1")
    anywhere["me/two"] = {"train": ROWS, "validation": ROWS}
    with pytest.raises(ConfigError, match="has the splits train, validation; name one"):
        datasets.load("hub:me/two")
    with pytest.raises(DataError, match="could not get me/two from"):
        datasets.load("hub:me/two", split="dev")


def test_a_known_set_read_by_its_repository_has_its_answers_read_too(
    anywhere: dict[str, dict[str, list[dict[str, Any]]]],
) -> None:
    anywhere["openai/gsm8k/main"] = {"test": HUB_ROWS["gsm8k"]}
    assert [example.answer for example in datasets.load("hub:openai/gsm8k/main")] == ["72", "70000"]


@pytest.mark.parametrize("name", ["hub:", "hub:sums", "hub:a/b/c/d", "hub:/b", "hub:a/"])
def test_a_name_of_the_hub_has_an_owner(name: str) -> None:
    with pytest.raises(ConfigError, match="must be `hub:owner/name`"):
        datasets.load(name)
    with pytest.raises(ConfigError, match="must be `hub:owner/name`"):
        datasets.info(name)
