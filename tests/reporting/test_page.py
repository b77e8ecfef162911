"""The page: whole, self-contained, escaped, and made from a folder, a result or rows alike."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy.calls.ledger import Call, Phase
from pdr_dspy.errors import ConfigError, DataError, StoreError
from pdr_dspy.evaluation.records import DraftRow, Report, RoundRow, Row
from pdr_dspy.evaluation.texts import DraftTexts, RoundTexts, RowTexts
from pdr_dspy.operators.strategies import LongCoT
from pdr_dspy.operators.workspace import Checked
from pdr_dspy.reporting import search_tables
from pdr_dspy.reporting.page import write_report
from pdr_dspy.search import PDROptimizer, Space
from pdr_dspy.testing import ScriptedRequest, scripted_lm
from pdr_dspy.verifiers.base import Score

EVIL = "<script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>"


class Even:
    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        return Score(float(prediction.answer == example.answer), EVIL)

    def check_gold(self, example: dspy.Example) -> None:
        if "answer" not in example:
            raise DataError("no gold answer")

    def describe(self) -> dict[str, Any]:
        return {"kind": "Even"}


def reply(request: ScriptedRequest) -> str:
    return f"Answer: {'yes' if request.seed % 3 else EVIL}"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PDROptimizer]:
    folder = tmp_path_factory.mktemp("search")
    space = Space(rounds=(1, 2), widths=(1, 2), kappa=(200,), distiller=("random_k",), k=(1,), draft_tokens=(60,))
    examples = [dspy.Example(id=f"q{i}", question=f"q{i}", answer="yes").with_inputs("question") for i in range(12)]
    optimizer = PDROptimizer(Even(), space=space, trials=3, confirm_repeats=4, run_dir=folder, max_total=100_000)
    with dspy.context(lm=scripted_lm(reply)):
        optimizer.compile(LongCoT("question -> answer", draft_tokens=60), trainset=examples)
    return folder, optimizer


class Outline(HTMLParser):
    """Tags, attributes and text of a page; refuses tags that do not match."""

    VOID = ("meta", "col", "br", "hr", "img", "link", "input")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def check(page: str) -> Outline:
    """Well formed, nothing loaded from anywhere, nothing of a model's taken for markup, ids used once."""
    outline = Outline(page)
    names = [name for name, _ in outline.tags]
    assert not {"script", "img", "link", "iframe", "object"} & set(names)
    for _, attributes in outline.tags:
        assert not any(key.startswith("on") for key in attributes)
        for key in ("src", "href", "xlink:href"):
            assert (attributes.get(key) or "#").startswith("#")
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert "url(http" not in page
    return outline


@pytest.mark.slow
def test_page_of_a_search(searched: tuple[Path, PDROptimizer]) -> None:
    folder, optimizer = searched
    assert optimizer.result is not None
    path = write_report(folder)
    assert path == folder / "report.html"
    outline = check(path.read_text())
    assert [name for name, _ in outline.tags].count("svg") == 10  # two of the front, the race, the rounds; six keys
    head, _, rest = optimizer.result.confirmation.verdict.partition(": ")
    assert head[1:] in outline.text
    assert rest in outline.text
    for heading in ("Score against cost", "Finalists", "The race", "Round by round", "Runs to look into"):
        assert heading in outline.text
    assert "Even" in outline.text
    for command in ("run", "eval", "compare"):
        assert f"pdr {command} {folder}/best.json" in outline.text
    assert f"optuna-dashboard {folder}/study.journal" in outline.text
    assert f"pdr report {folder}" in outline.text
    assert "limit 100k" in outline.text
    assert "alert('x')" in outline.text
    for trial in optimizer.result.trials:
        assert str(trial.candidate) in outline.text
    assert re.search(r"\d+\.\d %", outline.text)


@pytest.mark.slow
def test_folder_and_result_give_the_same_figures(searched: tuple[Path, PDROptimizer], tmp_path: Path) -> None:
    folder, optimizer = searched
    assert optimizer.result is not None
    ours = check(write_report(optimizer.result, tmp_path / "a.html", commands=["same"], texts={}).read_text())
    theirs = check(write_report(folder, tmp_path / "b.html", commands=["same"], texts={}).read_text())
    numbers = re.compile(r"\d[\d,.]*")
    assert numbers.findall(ours.text) == numbers.findall(theirs.text)


@pytest.mark.slow
def test_the_result_gives_what_the_page_names(searched: tuple[Path, PDROptimizer]) -> None:
    _, optimizer = searched
    result = optimizer.result
    assert result is not None
    assert [member.trial for member in result.members] == list(result.front)
    assert all(0.0 <= member.nondominated <= 1.0 for member in result.members)
    cheapest: Any = result.cheapest_within(1.0)
    assert cheapest.schedule == result.front[0].schedule
    best: Any = result.cheapest_within(0.0)
    assert best.schedule == max(result.front, key=lambda trial: trial.pooled).schedule
    with pytest.raises(ConfigError, match="difference of scores"):
        result.cheapest_within(3)
    known = search_tables.optimism(search_tables.facts_of(result))
    assert known is not None
    assert known.mean == pytest.approx(result.optimism)


@pytest.mark.slow
def test_a_search_whose_rows_are_gone_still_has_a_page(searched: tuple[Path, PDROptimizer], tmp_path: Path) -> None:
    folder, _ = searched
    slim = tmp_path / "slim"
    shutil.copytree(folder, slim, ignore=shutil.ignore_patterns("trials", "final", "board", "rollouts"))
    outline = check(write_report(slim).read_text())
    assert "Finalists" in outline.text
    assert not re.search(r"(?<![a-z])(nan|inf)(?![a-z])", outline.text)
    assert "0.0 – 100.0" not in outline.text.partition("Finalists")[0]


def test_each_kind_of_row_has_its_place(tmp_path: Path) -> None:
    right, wrong = DraftRow(answer="1", score=1.0), DraftRow(answer="2", score=0.0)
    cut = wrong.model_copy(update={"truncated": True})
    kinds = {
        "had": {"rounds": (RoundRow(drafts=(right, wrong), sources=((0,),)), RoundRow(drafts=(wrong,)))},
        "cut": {"rounds": (RoundRow(drafts=(cut,)),)},
        "gone": {"error": "RoundFailed: no draft"},
    }
    report = Report(
        rows=tuple(
            Row(id=f"{name}{place}", repeat=0, seed=0, score=0.0, answer="2", gold="1", **more)
            for name, more in kinds.items()
            for place in range(30 if name == "had" else 2)
        )
    )
    text = check(write_report(report, tmp_path / "page.html", rows=8).read_text()).text
    assert "32 of 34" not in text
    assert "34 of 34 runs are wrong; 8 of them are listed" in text
    for title in ("A draft was right, the answer is wrong", "Failed: no answer at all", "a cap cut some of them"):
        assert title in text
    assert all(name in text for name in ("had0", "cut1", "gone1", "RoundFailed: no draft"))


@pytest.mark.slow
def test_cancelled_and_retried_calls_have_a_column_where_there_are_any(tmp_path: Path) -> None:
    def page(*calls: Call) -> str:
        report = Report(rows=(Row(id="a", repeat=0, seed=0, score=1.0, answer="1", calls=calls),))
        return check(write_report(report, tmp_path / "page.html").read_text()).text

    whole, cut = Call(phase=Phase.DRAFT), Call(phase=Phase.DRAFT, finish="cancelled", fate="left")
    assert "cancelled" not in page(whole)
    assert "cancelled" in page(whole, cut)
    assert "retried" not in page(whole, cut)
    assert "retried" in page(Call(phase=Phase.DRAFT, tries=2))


def rows(name: str) -> Report:
    evil = DraftRow(answer=EVIL, score=0.0)
    return Report(
        name=name,
        rows=tuple(
            Row(id=f"{EVIL}{i}", repeat=0, seed=0, score=i % 2, answer=EVIL, gold="1", sequential=10 + i, total=20,
                rounds=(RoundRow(drafts=(evil,)),))
            for i in range(4)
        ),
    )  # fmt: skip


def test_page_of_rows_escapes_everything(tmp_path: Path) -> None:
    path = write_report(rows(EVIL), tmp_path / "deep" / "page.html", programs=[rows("other")], title=EVIL)
    outline = check(path.read_text())
    assert outline.text.count("alert('x')") > 5
    assert "other" in outline.text
    check(write_report([rows("one"), rows("two"), Report(rows=())], tmp_path / "many.html").read_text())


def test_nothing_to_show_and_nowhere_to_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give the file"):
        write_report(rows("x"))
    with pytest.raises(ConfigError, match="no rows"):
        write_report(Report(rows=()), tmp_path / "x.html")
    with pytest.raises(StoreError, match="holds no evaluation"):
        write_report(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        write_report(rows("x"), tmp_path / "file" / "x.html")


@pytest.mark.slow
def test_the_page_begins_with_what_to_do(searched: tuple[Path, PDROptimizer], tmp_path: Path) -> None:
    folder, _ = searched
    for source, start in ((folder, ("Keep", "Use")), ([rows("one"), rows("two")], ("Keep", "Use")), (rows("a"), "Ask")):
        page = write_report(source, tmp_path / "page.html").read_text()  # type: ignore[arg-type]
        (head,) = re.findall(r"<h1>(.*?)</h1>", page)
        assert head.startswith(start)
        assert head.endswith(".")
        assert page.index("<h1>") < page.index("<section>")


@pytest.mark.slow
def test_the_texts_of_a_search_are_on_its_page_escaped(searched: tuple[Path, PDROptimizer], tmp_path: Path) -> None:
    folder, _ = searched
    outline = check(write_report(folder, tmp_path / "page.html").read_text())
    assert "Examples" in outline.text
    assert f"Answer: {EVIL}" in outline.text  # what a draft said, as text
    bare = check(write_report(folder, tmp_path / "bare.html", texts={}).read_text())
    assert "Examples" not in bare.text
    assert "Answer:" not in bare.text


def test_examples_show_drafts_checks_and_workspace(tmp_path: Path) -> None:
    right, wrong = DraftRow(answer="1", score=1.0), DraftRow(answer="2", score=0.0)
    first = RoundRow(drafts=(wrong, wrong, right), workspace_tokens=(17,), sources=((0, 2),))
    row = Row(id="q", repeat=0, seed=0, score=1.0, answer="1", gold="1", rounds=(first, RoundRow(drafts=(right,))))
    check_ = Checked(value=0.25, detail="looked", feedback="the sum is off by <one>")
    texts = RowTexts(
        id="q", repeat=0, inputs={"question": "How <many>?"},
        rounds=(
            RoundTexts(
                drafts=(DraftTexts(text="first & wrong", check=check_), DraftTexts(text="x" * 9000), DraftTexts()),
                workspaces=("two of them disagree",),
            ),
            RoundTexts(drafts=(DraftTexts(text="so it is 1"),)),
        ),
    )  # fmt: skip
    page = write_report(Report(rows=(row,)), tmp_path / "page.html", texts={("q", 0): texts}).read_text()
    text = check(page).text
    for part in (
        "A later round put it right", "How <many>?", "first & wrong", "check 0.25 of 1", "the sum is off by <one>",
        "17 tokens of drafts 1, 3", "two of them disagree", "so it is 1", "Its text was not kept.",
        "6,000 characters left out",
    ):  # fmt: skip
        assert part in text, part
    assert len(page) < 60_000
    for part in ("3 drafts", "workspace", "made of 2 drafts", "1 draft", "answer"):  # the flow of rounds
        assert part in text.partition("Round by round")[2]
