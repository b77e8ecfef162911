"""A distiller in a package outside of the tree: it runs, is searched, saved and loaded, and missed where it is not."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
from typer.testing import CliRunner

import pdr_dspy
from pdr_dspy.cli import app as cli
from pdr_dspy.errors import ArtifactError, ConfigError
from pdr_dspy.operators.distillers import DISTILLERS
from pdr_dspy.search import PDROptimizer, Space
from pdr_dspy.verifiers import VERIFIERS, ExactVerifier, load_verifier
from tests.outside.test_extending import modules
from tests.support.mock_server import MockServer
from tests.support.plugin import write_package
from tests.support.solver import engine

HOME = {"pdr_dspy.distillers": {"voted": "pdr_voting:voted"}}
SHAPE: dict[str, Any] = {"widths": (3, 1), "k": 1, "kappa": 200, "draft_tokens": 60}


def forget() -> None:
    """As in a process that has not imported the package."""
    DISTILLERS.remove("voted")
    sys.modules.pop("pdr_voting", None)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the package of docs/extending/distiller.md is installed."""
    forget()
    folder = write_package(tmp_path / "site", "pdr-voting", modules("distiller"), HOME)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    forget()


def program(**changes: Any) -> pdr_dspy.Operator:
    return pdr_dspy.PDR("question -> answer", pdr_dspy.Schedule(**{**SHAPE, "distiller": "voted", **changes}))


def answers(made: dspy.Module) -> list[str]:
    with dspy.context(lm=engine()):
        return [made(question=question, seed=seed).solution for seed, question in enumerate("abcd")]


def test_it_runs_and_shows_the_majority_to_the_next_round(site: Path) -> None:
    with dspy.context(lm=engine()):
        prediction = program(widths=(7, 1), k=2)(question="a")
    first = prediction.rounds[0]
    shown = [first.drafts[index].outputs["answer"] for index in first.workspaces[0].sources]
    votes = [draft.outputs["answer"] for draft in first.drafts]
    assert len(shown) == 2
    assert {votes.count(answer) for answer in shown} == {max(votes.count(answer) for answer in votes)}


def test_a_schedule_of_one_round_names_it_without_importing_it(site: Path) -> None:
    pdr_dspy.Schedule(widths=(1,), distiller="voted")
    assert "pdr_voting" not in sys.modules
    pdr_dspy.Schedule(widths=(2, 1), distiller="voted")
    assert "pdr_voting" in sys.modules


@pytest.mark.slow
def test_a_search_chooses_it_and_the_winner_loads_again(site: Path, tmp_path: Path) -> None:
    examples = [dspy.Example(question=f"q{n}", answer=str(n % 3)).with_inputs("question") for n in range(4)]
    space = Space(rounds=(2,), widths=(2, 3), distiller=("voted", "random_k"), k=(1,), kappa=(200,), draft_tokens=(60,))
    optimizer = PDROptimizer(
        ExactVerifier(), space=space, trials=5, finalists=1, confirm_repeats=1, run_dir=tmp_path / "run", max_total=9999
    )
    with dspy.context(lm=engine()):
        tuned = optimizer.compile(program(), trainset=examples, valset=examples)
    assert optimizer.result is not None
    tried = [record.schedule.distiller for record in optimizer.result.trials]
    assert {"voted", "random_k"} <= set(tried)
    loaded: Any = pdr_dspy.load(tmp_path / "run" / "best.json")
    assert answers(loaded) == answers(tuned)
    forget()
    again: Any = pdr_dspy.load(tmp_path / "run" / "best.json")
    assert again.schedule == loaded.schedule


def test_a_default_space_around_a_program_with_it_has_it(site: Path) -> None:
    assert program().schedule in Space.default_for(program().schedule)


def test_a_saved_program_says_where_it_came_from_and_loads_where_the_package_is(site: Path, tmp_path: Path) -> None:
    path = pdr_dspy.save(program(), tmp_path / "voting.json")
    content = json.loads(path.read_text())
    schedule = content["operators"][""]["schedule"]
    assert (schedule["distiller_from"], schedule["distiller_package"]) == ("pdr_voting:voted", "pdr-voting")
    assert content["versions"]["pdr-voting"] == "1.2"
    before = answers(pdr_dspy.load(path))
    forget()
    assert answers(pdr_dspy.load(path)) == before


def test_without_the_package_loading_says_what_is_missing(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pdr_dspy.save(program(), tmp_path / "voting.json")
    state = program().dump_state()
    forget()
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(site)])
    for trusted in (False, True):
        with pytest.raises(ArtifactError, match=r"voting\.json: .*`pdr_voting") as caught:
            pdr_dspy.load(path, trusted=trusted)
        assert ("No module named 'pdr_voting'; install `pdr_voting`, or set PYTHONPATH" in str(caught.value)) == trusted
    with pytest.raises(ConfigError, match=r"'voted'.*`pdr_voting:voted`: install `pdr-voting`"):
        pdr_dspy.PDR("question -> answer").load_state(state)
    with pytest.raises(ConfigError, match=r"no distiller 'voted' here.*Known: summary, topk"):
        program()


def test_a_module_that_no_package_installs_is_imported_only_on_trust(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pdr_dspy.save(program(), tmp_path / "voting.json")
    before = answers(program())
    forget()
    (site / "pdr_voting-1.2.dist-info" / "entry_points.txt").unlink()
    with pytest.raises(ArtifactError, match=r"`load\(path, trusted=True\)` import `pdr_voting`"):
        pdr_dspy.load(path)
    assert "pdr_voting" not in sys.modules
    assert answers(pdr_dspy.load(path, trusted=True)) == before
    assert answers(pdr_dspy.load(path)) == before


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ("pdr_voting:Counter", "is no distiller"),
        ("__main__:voted", r"defined in a script or notebook \(`__main__:voted`\): run its definition first"),
        ("pdr_voting", "not of the form"),
        ("os:system", "is no distiller"),
        ("pdr_voting:voted.run.__globals__['x']", "not of the form"),
    ],
)
def test_a_file_that_names_something_else_is_refused_even_where_it_is_trusted(
    site: Path, tmp_path: Path, origin: str, said: str
) -> None:
    path = pdr_dspy.save(program(), tmp_path / "voting.json")
    content = json.loads(path.read_text())
    content["operators"][""]["schedule"].update(distiller="other", distiller_from=origin)
    content.pop("sha256")
    from pdr_dspy.artifact.file import digest

    path.write_text(json.dumps({**content, "sha256": digest(content)}))
    with pytest.raises(ArtifactError, match=said):
        pdr_dspy.load(path, trusted=True)
    assert "other" not in DISTILLERS


def test_the_command_line_lists_it_and_asks_for_trust(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = CliRunner().invoke(cli.app, ["distillers"]).output
    assert any(line == "voted  (from pdr-voting)" for line in listed.splitlines())
    path = pdr_dspy.save(program(), tmp_path / "voting.json")
    forget()
    (site / "pdr_voting-1.2.dist-info" / "entry_points.txt").unlink()
    refused = CliRunner().invoke(cli.app, ["run", str(path), "-i", "a", "--api-base", "http://127.0.0.1:9/v1"])
    assert refused.exit_code == 2
    assert "trusted=True" in refused.output
    asked = CliRunner().invoke(
        cli.app, ["run", str(path), "-i", "a", "--trusted", "--api-base", "http://127.0.0.1:9/v1"]
    )
    assert asked.exit_code == 1  # no server is there; the program was read
    assert "pdr_voting" in sys.modules


@pytest.mark.parametrize("command", [["run"], ["eval", "--data", "data.jsonl", "--verifier", "exact"]], ids=" ".join)
def test_the_command_line_finds_a_trusted_module_in_the_current_folder(
    command: list[str], site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pdr_dspy.save(program(), tmp_path / "voting.json")
    forget()
    (site / "pdr_voting-1.2.dist-info" / "entry_points.txt").unlink()
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(site))])
    (site / "data.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    monkeypatch.chdir(site)
    given = ["-i", "a"] if command == ["run"] else []
    options = [*command[1:], *given, "--api-base", "http://127.0.0.1:9/v1"]
    refused = CliRunner().invoke(cli.app, [command[0], str(path), *options])
    assert refused.exit_code == 2
    assert "pdr_voting" not in sys.modules
    asked = CliRunner().invoke(cli.app, [command[0], str(path), "--trusted", *options])
    assert asked.exit_code == 1, asked.output  # no server is there; the program was read
    assert Path(str(sys.modules["pdr_voting"].__file__)).parent == site


def test_a_chain_of_somebodys_own_is_searched_in_the_place_of_the_last_solution(tmp_path: Path) -> None:
    @pdr_dspy.distiller("first_line", chain=True)
    async def first_line(given: pdr_dspy.DistillerInput) -> pdr_dspy.Distilled:
        draft = given.drafts[-1]
        text = (draft.solution.splitlines() or [""])[0]
        return pdr_dspy.Distilled((await given.workspace([text], [draft], keep="start"),) * given.next_width)

    try:
        space = Space(rounds=(1, 2), widths=(1,), distiller=("first_line",), kappa=(200,), critique=(False, True))
        chains = [schedule for schedule in space.schedules() if schedule.rounds == 2]
        assert {schedule.distiller for schedule in chains} == {"first_line"}
        assert {schedule.critique for schedule in chains} == {False, True}
        with dspy.context(lm=engine()):
            made = pdr_dspy.PDR("question -> answer", chains[0])(question="a")
        assert "\n" not in made.rounds[0].workspaces[0].text
        with pytest.raises(ConfigError, match=r"keeps one solution, so `widths=\(2, 1\)` must be all 1"):
            pdr_dspy.Schedule(widths=(2, 1), distiller="first_line")
    finally:
        DISTILLERS.remove("first_line")


# --- a verifier ------------------------------------------------------------------------------------------------------


@pytest.fixture
def lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the package of docs/extending/verifier.md is installed."""
    VERIFIERS.remove("length")
    folder = write_package(
        tmp_path / "site",
        "pdr-lengths",
        modules("verifier"),
        {"pdr_dspy.verifiers": {"length": "pdr_lengths:LengthVerifier"}},
    )
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    VERIFIERS.remove("length")
    sys.modules.pop("pdr_lengths", None)


@pytest.mark.slow
def test_a_verifier_of_a_package_is_rebuilt_searched_with_and_kept_in_the_artifact(
    lengths: Path, tmp_path: Path
) -> None:
    verifier = load_verifier({"kind": "length", "slack": 2})
    assert verifier.describe() == {"kind": "length", "gold": "answer", "field": "answer", "slack": 2}
    examples = [dspy.Example(question=f"q{n}", answer=str(n % 3)).with_inputs("question") for n in range(3)]
    space = Space(rounds=(1, 2), widths=(2,), distiller=("random_k",), k=(1,), kappa=(200,), draft_tokens=(60,))
    optimizer = PDROptimizer(
        verifier, space=space, trials=2, finalists=1, confirm_repeats=1, run_dir=tmp_path / "run", max_total=9999
    )
    with dspy.context(lm=engine()):
        optimizer.compile(pdr_dspy.PDR("question -> answer", **SHAPE), trainset=examples, valset=examples)
    loaded: Any = pdr_dspy.load(tmp_path / "run" / "best.json")
    saved = loaded.artifact["verifier"]
    assert saved["from"] == "pdr_lengths:LengthVerifier"
    assert load_verifier(saved) == verifier
    VERIFIERS.remove("length")
    (lengths / "pdr_lengths-1.2.dist-info" / "entry_points.txt").unlink()
    with pytest.raises(ConfigError, match=r"no verifier 'length' here.*install `pdr_lengths`.*trusted=True"):
        load_verifier(saved)
    assert load_verifier(saved, trusted=True) == verifier


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("lenght", "did you mean 'length'?"),
        ("length:slak=2", "has no setting slak; it has gold, field, slack"),
        ("length:slack", "'slack' is not KEY=VALUE"),
        ("length:slack=1,slack=2", "each key once"),
        ("number:tolerance=-1", "must be a finite number, at least 0"),
        ("judge", "add `--judge-base`"),
    ],
)
def test_a_verifier_that_cannot_be_made_is_one_sentence_at_the_command_line(
    lengths: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sums.jsonl").write_text('{"question": "What is 1 + 1?", "answer": "2"}\n')
    path = pdr_dspy.save(pdr_dspy.LongCoT("question -> answer"), tmp_path / "one.json")
    done = CliRunner().invoke(cli.app, ["eval", str(path), "--data", "sums.jsonl", "--verifier", asked])
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())


@pytest.mark.slow
def test_the_command_line_grades_with_a_judge_on_a_server_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sums.jsonl").write_text('{"question": "What is 1 + 1?", "answer": "2"}\n')
    path = pdr_dspy.save(pdr_dspy.LongCoT("question -> answer"), tmp_path / "one.json")
    with (
        MockServer(lambda body, seed: "So:\nAnswer: 3", kind="vllm") as solver,
        MockServer(lambda body, seed: "yes", kind="vllm") as judge,
    ):
        command = ["eval", str(path), "--data", "sums.jsonl", "--verifier", "judge", "--api-base", solver.api_base]
        done = CliRunner().invoke(cli.app, [*command, "--judge-base", judge.api_base, "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["score"] == 1.0
        assert len(judge.requests) == 1
        refused = CliRunner().invoke(cli.app, [*command[:5], "number", "--judge-base", judge.api_base])
        assert "number calls none" in refused.output
