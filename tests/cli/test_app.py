"""The `pdr` command, against a mock server: what it prints, where it writes, how it fails."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pdr_dspy.cli import app as cli
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.operators.strategies import PDR
from tests.support.mock_server import MockServer

PROGRAM = """
import dspy
from pdr_dspy.operators.strategies import PDR
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.verifiers import NumberVerifier

def data(split="test", *, limit=None, seed=0):
    start = {"train": 0, "dev": 10, "test": 20}[split]
    made = [
        dspy.Example(id=f"{split}/{i}", question=f"What is {start + i} + 1?", answer=str(start + i + 1))
        for i in range(4)
    ]
    return [one.with_inputs("question") for one in made][:limit]

def verifier():
    return NumberVerifier()

def build():
    schedule = Schedule(widths=(3, 1), distiller="random_k", k=2, draft_tokens=64, kappa=200)
    return PDR("question -> answer: int", schedule)
"""


BUILD = """
from pdr_dspy import PDR

def build():
    return PDR("question -> answer: int", widths=(3, 1), distiller="random_k", k=2, draft_tokens=64, kappa=200)
"""


def add_one(body: dict[str, Any], seed: int) -> str:
    """Right for even questions; for odd ones only where there is a workspace to read."""
    text = body["messages"][-1]["content"]
    found = re.search(r"What is (\d+) \+ 1", text)
    assert found is not None
    number = int(found.group(1))
    right = number % 2 == 0 or "Candidate" in text
    return f"One more than {number}.\nAnswer: {number + 1 if right else 0}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "addition.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "addition", raising=False)
    return tmp_path


@pytest.fixture
def server() -> Iterator[MockServer]:
    with MockServer(add_one, kind="vllm") as running:
        yield running


@pytest.fixture
def pdr() -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, pdr_dspy.cli.app; print([m for m in ('dspy', 'optuna', 'sympy', 'aiohttp') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_help_names_every_command(pdr: Callable[..., Result]) -> None:
    shown = pdr("--help").stdout
    for command in (
        "run",
        "eval",
        "compare",
        "optimize",
        "report",
        "serve",
        "view",
        "export",
        "serve-model",
        "doctor",
        "models",
        "datasets",
    ):
        assert re.search(rf"^  {command} ", shown, re.MULTILINE), command


def test_run_answers_one_question(folder: Path, server: MockServer, pdr: Callable[..., Result]) -> None:
    done = pdr("run", "addition", "-i", "What is 4 + 1?", "--api-base", server.api_base)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "answer: 5\n"
    assert "4 calls" in done.stderr


def test_run_needs_only_a_program(folder: Path, server: MockServer, pdr: Callable[..., Result]) -> None:
    (folder / "single.py").write_text(BUILD)
    done = pdr("run", "single.py", "-i", "What is 4 + 1?", "--api-base", server.api_base)
    assert (done.exit_code, done.stdout) == (0, "answer: 5\n"), done.stderr


def test_run_prints_json(folder: Path, server: MockServer, pdr: Callable[..., Result]) -> None:
    done = pdr("run", "addition", "-i", "question=What is 7 + 1?", "--api-base", server.api_base, "--json")
    record = json.loads(done.stdout)
    assert record["answer"] == 8
    assert record["calls"] == 4
    assert 0 < record["sequential"] < record["total"]


def test_run_answers_a_file_in_its_order(folder: Path, server: MockServer, pdr: Callable[..., Result]) -> None:
    lines = [json.dumps({"question": f"What is {n} + 1?", "note": "kept out"}) for n in (9, 2, 5)]
    (folder / "in.jsonl").write_text("\n".join(lines) + "\n")
    done = pdr("run", "addition", "--jsonl", "in.jsonl", "--api-base", server.api_base)
    assert [json.loads(line)["answer"] for line in done.stdout.splitlines()] == [10, 3, 6]


def test_run_keeps_going_past_a_question_that_fails(
    folder: Path, server: MockServer, pdr: Callable[..., Result]
) -> None:
    (folder / "in.jsonl").write_text('{"query": "?"}\n{"question": "What is 2 + 1?"}\n')
    done = pdr("run", "addition", "--jsonl", "in.jsonl", "--api-base", server.api_base)
    assert done.exit_code == 1
    first, second = [json.loads(line) for line in done.stdout.splitlines()]
    assert "'question' is missing" in first["error"]
    assert second["answer"] == 3


def test_eval_prints_the_score_and_resumes_where_it_was(
    folder: Path, server: MockServer, pdr: Callable[..., Result]
) -> None:
    command = ("eval", "addition", "--api-base", server.api_base, "--run-dir", "out", "--json")
    first = json.loads(pdr(*command).stdout)
    assert first["score"] == 1.0
    assert first["rows"] == 4
    sent = len(server.requests)
    assert sum(body.get("n", 1) for body in server.requests) == 16
    assert json.loads(pdr(*command).stdout)["score"] == 1.0
    assert len(server.requests) == sent
    assert json.loads(pdr(*command, "--repeats", "2").stdout)["rows"] == 8
    assert len(server.requests) == 2 * sent
    assert len((folder / "out" / "rows.jsonl").read_text().splitlines()) == 8


@pytest.mark.slow
@pytest.mark.parametrize("command", ["eval", "compare", "optimize"])
def test_texts_are_kept_unless_told_otherwise(
    folder: Path, server: MockServer, pdr: Callable[..., Result], command: str
) -> None:
    few = ("--trials", "2", "--finalists", "1") if command == "optimize" else ()
    for name, options in (("with", ()), ("without", ("--texts", "0"))):
        done = pdr(command, "addition", "--api-base", server.api_base, "--run-dir", name, *few, *options)
        assert done.exit_code == 0, done.output
    assert list((folder / "with").rglob("texts.jsonl"))
    assert not list((folder / "without").rglob("texts.jsonl"))


@pytest.mark.slow
def test_eval_says_how_answers_were_found(folder: Path, pdr: Callable[..., Result]) -> None:
    def boxed(body: dict[str, Any], seed: int) -> str:
        label = add_one(body, seed)
        number = label.rpartition(" ")[2]
        return label if "Candidate" in label or int(number) % 2 == 0 else f"So it is \\boxed{{{number}}}."

    with MockServer(boxed, kind="vllm") as server:
        done = pdr("eval", "addition", "--api-base", server.api_base, "--run-dir", "out")
        assert re.search(r"answers found by other means than their label: [0-9.]+% \(box [0-9]+\)", done.stderr)
        summary = json.loads(
            pdr("eval", "addition", "--api-base", server.api_base, "--run-dir", "out", "--json").stdout
        )
    assert set(summary["how"]) == {"label", "box"}
    assert summary["unlabelled"] == pytest.approx(summary["how"]["box"] / sum(summary["how"].values()))
    assert summary["unclear"] == 0


def test_eval_of_other_data(folder: Path, server: MockServer, pdr: Callable[..., Result]) -> None:
    (folder / "mine.jsonl").write_text('{"problem": "What is 1 + 1?", "answer": "2"}\n')
    done = pdr(
        "eval", "addition", "--data", "mine.jsonl", "--verifier", "exact", "--api-base", server.api_base, "--json"
    )
    assert json.loads(done.stdout)["rows"] == 1
    missing = pdr("eval", "addition", "--data", "mine.jsonl", "--api-base", server.api_base)
    assert missing.exit_code == 2
    assert "--verifier" in missing.stderr


def test_budget_is_kept(folder: Path, server: MockServer, pdr: Callable[..., Result]) -> None:
    done = pdr("eval", "addition", "--budget-total", "9", "--api-base", server.api_base)
    assert done.exit_code == 2
    assert "below the worst case of the first round" in done.stderr
    assert not server.requests


@pytest.mark.slow
def test_compare_matches_tokens(folder: Path, server: MockServer, pdr: Callable[..., Result]) -> None:
    done = pdr("compare", "addition", "--api-base", server.api_base, "--run-dir", "out", "--json")
    assert done.exit_code == 0, done.stderr
    lines = {line["name"]: line for line in json.loads(done.stdout)}
    main = json.loads(done.stdout)[0]
    assert main["score"] == 1.0
    (single,) = [line for name, line in lines.items() if name.startswith("one pass, mean of ")]
    assert 0.0 < single["score"] < 1.0
    (vote,) = [line for name, line in lines.items() if name.startswith("majority of ")]
    assert vote["matched"] == "B_total"
    assert abs(vote["total"] - main["total"]) <= 0.5 * single["total"]
    assert vote["sequential"] < main["sequential"]
    assert vote["difference"] == 0.5
    low, high = vote["difference_interval"]
    assert low <= 0.5 <= high
    assert any("B_seq" in line["matched"] for line in lines.values())
    table = pdr("compare", "addition", "--api-base", server.api_base, "--run-dir", "out")
    assert re.search(r"^addition +1\.000 ", table.stdout, re.MULTILINE)
    page = (folder / "out" / "report.html").read_text()
    assert all(name in page for name in lines)
    (folder / "out" / "report.html").unlink()
    assert pdr("report", "out").stdout == "out/report.html\n"


@pytest.mark.slow
def test_a_saved_program_runs_like_the_one_it_was_saved_from(
    folder: Path, server: MockServer, pdr: Callable[..., Result]
) -> None:
    from pdr_dspy import artifact

    program = PDR("question -> answer: int", Schedule(widths=(2, 1), distiller="random_k", k=1, draft_tokens=64))
    artifact.save(program, folder / "best.json", data={"name": "addition", "task": "addition"})
    done = pdr("run", "best.json", "-i", "What is 3 + 1?", "--api-base", server.api_base)
    assert done.stdout == "answer: 4\n"
    assert [body.get("n", 1) for body in server.requests] == [2, 1]
    # It knows the program file that it was tuned for.
    assert json.loads(pdr("eval", "best.json", "--api-base", server.api_base, "--json").stdout)["rows"] == 4


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("run", "nothing.json", "-i", "x"), 2, "nothing.json does not exist"),
        (("run", "adition", "-i", "x"), 2, "did you mean 'addition'?"),
        (("run", "gone.py", "-i", "x"), 2, "gone.py does not exist"),
        (("run", "addition"), 2, "give either `--input` (inputs: question) or `--jsonl`"),
        (("run", "empty.py", "-i", "x"), 2, "has no function `build()`"),
        (("eval", "only.py"), 2, "has no function `data()`"),
        (("optimize", "only.py"), 2, "has no function `data()`"),
        (("run", "broken.py", "-i", "x"), 2, "line 1, is not Python"),
        (("run", "raises.py", "-i", "x"), 2, "raises.py failed: NameError: name 'unknown' is not defined"),
        (("run", "builds.py", "-i", "x"), 2, "`build()` of builds failed: KeyError: 'a' ("),
        (("run", "gives.py", "-i", "x"), 2, "`build()` of gives returned 3"),
        (("eval", "reads.py"), 2, "`data()` or `verifier()` of reads failed: ZeroDivisionError"),
        (("optimize", "reads.py"), 2, "`data()` of reads failed: ZeroDivisionError"),
        (("run", "addition", "--jsonl", "bad.jsonl", "--api-base", "http://127.0.0.1:9/v1"), 2, "line 2, is not JSON"),
        (("run", "addition", "-i", "x", "--api-base", "http://127.0.0.1:9/v1"), 1, "Is the server running"),
        (("run", "addition", "-i", "x", "--model", "m"), 2, "add `--api-base`"),
        (("run", "addition", "-i", "x", "--embedded", "a", "--api-base", "http://h/v1"), 2, "exclude each other"),
        (("eval", "addition", "--verifier", "exact"), 2, "`--verifier` goes with `--data`"),
        (("eval", "addition", "--data", "rg:nothing"), 2, "has no task 'nothing'"),
        (("datasets", "aime9"), 2, "is not a known data set"),
        (("eval", "bad.jsonl"), 2, "`pdr eval PROGRAM --data bad.jsonl`"),
    ],
)
def test_bad_input_is_one_sentence(
    folder: Path, pdr: Callable[..., Result], arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    (folder / "empty.py").write_text("")
    (folder / "only.py").write_text(BUILD)
    (folder / "broken.py").write_text("def (")
    (folder / "raises.py").write_text("unknown()")
    (folder / "builds.py").write_text(PROGRAM + "def build(): return {}['a']")
    (folder / "gives.py").write_text(PROGRAM + "def build(): return 3")
    (folder / "reads.py").write_text(PROGRAM + "def data(*_, **__): 1 / 0")
    for name in ("raises", "builds", "gives", "reads", "only"):
        sys.modules.pop(name, None)
    (folder / "bad.jsonl").write_text('{"question": "q"}\n{"question"\n')
    done = pdr(*arguments)
    assert sentence in done.stderr
    assert done.exit_code == code
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_disk_that_fails_anywhere_is_one_sentence(
    folder: Path, server: MockServer, pdr: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "study.journal")

    monkeypatch.setattr("pdr_dspy.cli.optimize.PDROptimizer.compile", full)
    done = pdr("optimize", "addition", "--trials", "1", "--run-dir", "out", "--api-base", server.api_base)
    assert done.exit_code == 1
    assert done.stderr.endswith("error: study.journal: No space left on device\n")


def test_an_interrupt_says_that_the_same_command_resumes(
    folder: Path, pdr: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pdr_dspy.cli import evaluate

    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "evaluate", interrupted)
    done = pdr("eval", "addition")
    assert done.exit_code == 130
    assert "the same command resumes" in done.stderr


def test_models_of_a_server_and_of_the_catalogue(server: MockServer, pdr: Callable[..., Result]) -> None:
    assert pdr("models", "--api-base", server.api_base).stdout == "mock\n"
    with MockServer(models=("other", "mock")) as replica:
        both = ("--api-base", server.api_base, "--api-base", replica.api_base)
        assert pdr("models", *both).stdout == "mock\n"
    assert "qwen2.5-coder-0.5b" in pdr("models").stdout


@pytest.mark.slow
def test_datasets_are_listed(pdr: Callable[..., Result]) -> None:
    assert re.search(r"^gsm8k +1319 ", pdr("datasets").stdout, re.MULTILINE)
    assert "citation: Cobbe" in pdr("datasets", "gsm8k").stdout
    assert "rg:lcm\n" in pdr("datasets", "rg").stdout


@pytest.mark.slow
def test_optimize_writes_a_program_that_runs(folder: Path, server: MockServer, pdr: Callable[..., Result]) -> None:
    command = ("optimize", "addition", "--trials", "3", "--api-base", server.api_base, "--run-dir", "out")
    done = pdr(*command)
    assert done.exit_code == 0, done.stderr
    assert "trial 3 of 3" in done.stderr
    assert "pdr run out/best.json" in done.stderr
    assert (folder / "out" / "report.html").is_file()
    saved = json.loads((folder / "out" / "best.json").read_text())
    assert saved["data"]["task"] == "addition"
    assert pdr("run", "out/best.json", "-i", "What is 8 + 1?", "--api-base", server.api_base).stdout == "answer: 9\n"
    sent = len(server.requests)
    assert pdr(*command).exit_code == 0
    assert len(server.requests) == sent


@pytest.mark.slow
def test_what_optimize_says_to_run_next_runs(folder: Path, server: MockServer, pdr: Callable[..., Result]) -> None:
    (folder / "my sums.py").write_text(PROGRAM)
    served = ("--api-base", server.api_base)
    done = pdr("optimize", "my sums.py", "--trials", "2", *served, "--run-dir", "out")
    assert done.exit_code == 0, done.stderr
    commands = [shlex.split(line.removeprefix("use it:")) for line in done.stderr.splitlines() if " pdr " in line]
    assert [command[1] for command in commands] == ["run", "compare"]
    for command in commands:
        said = pdr(*("What is 8 + 1?" if word == "..." else word for word in command[1:]))
        assert said.exit_code == 0, said.stderr


def test_optimize_refuses_a_limit_that_nothing_keeps(
    folder: Path, server: MockServer, pdr: Callable[..., Result]
) -> None:
    done = pdr("optimize", "addition", "--budget-total", "3", "--api-base", server.api_base)
    assert done.exit_code == 2
    assert "max_total=3" in done.stderr
    assert not server.requests


@pytest.mark.slow
def test_report_writes_a_page(folder: Path, server: MockServer, pdr: Callable[..., Result]) -> None:
    pdr("eval", "addition", "--api-base", server.api_base, "--run-dir", "out")
    done = pdr("report", "out")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "out/report.html\n"
    assert "<html" in (folder / "out" / "report.html").read_text()


def test_serve_model_says_how_to_connect_and_stops_when_told(
    monkeypatch: pytest.MonkeyPatch, pdr: Callable[..., Result]
) -> None:
    from pdr_dspy.cli import serve

    events: list[str] = []

    class Server:
        model = "small"
        api_base = "http://127.0.0.1:1/v1"

        def __init__(self, name: str, **settings: Any) -> None:
            events.append(f"{name} {settings['port']} {settings['slots']} {settings['context']}")

        def start(self) -> None:
            signal.raise_signal(signal.SIGTERM)

        def stop(self) -> None:
            events.append("stopped")

    monkeypatch.setattr(serve, "LlamaCppServer", Server)
    done = pdr("serve-model", "small", "--port", "0", "--slots", "4", "--context", "256")
    assert events == ["small 0 4 256", "stopped"]
    assert done.stdout == "serving small at http://127.0.0.1:1/v1\n"
    assert "--api-base http://127.0.0.1:1/v1" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", ["eval", "compare", "optimize"])
def test_a_folder_of_another_run_is_refused_before_a_model_is_started(
    command: str, folder: Path, server: MockServer, pdr: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was started")

    monkeypatch.setattr("pdr_dspy.serving.LlamaCppServer", start)
    before = "compare" if command == "eval" else "eval"
    assert pdr(before, "addition", "--api-base", server.api_base, "--run-dir", "out").exit_code == 0
    report = (folder / "out" / "report.json").read_bytes()
    done = pdr(command, "addition", "--run-dir", "out")
    assert done.exit_code == 2, done.stderr
    assert "the run folder out holds" in done.stderr
    assert (folder / "out" / "report.json").read_bytes() == report
    if command != "optimize":
        changed = pdr(before, "addition", "--run-dir", "out", "--seed", "7")
        assert changed.exit_code == 1
        assert "`seed` was 0 and is now 7" in changed.stderr


@pytest.mark.slow
def test_dry_run_tells_the_cost_before_and_after(folder: Path, server: MockServer, pdr: Callable[..., Result]) -> None:
    command = ("optimize", "addition", "--trials", "3", "--api-base", server.api_base, "--run-dir", "out")
    before = pdr(*command, "--prompts", "1", "--dry-run", "--quiet")
    assert before.exit_code == 0, before.stderr
    low, high = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) (?:to|tokens)", before.stdout))
    assert 0 < low < high
    assert "3 are left" in before.stdout
    assert not server.requests
    assert not (folder / "out").exists()
    assert pdr(*command).exit_code == 0
    sent = len(server.requests)
    after = pdr(*command, "--dry-run")
    assert "all 3 trials are done and confirmed: the search costs nothing more" in after.stdout
    assert "are left" in pdr(*command[:2], "--trials", "5", *command[4:], "--dry-run").stdout
    changed = pdr(*command, "--dry-run", "--finalists", "2")
    assert changed.exit_code == 1
    assert "`finalists` was 4 and is now 2" in changed.stderr
    assert len(server.requests) == sent


@pytest.mark.slow
def test_dry_run_starts_no_model(folder: Path, pdr: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was started")

    monkeypatch.setattr("pdr_dspy.serving.LlamaCppServer", start)
    done = pdr("optimize", "addition", "--trials", "3", "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert "since no call has been measured yet" in done.stdout
    assert not (folder / "runs").exists()


@pytest.mark.slow
def test_optimize_within_axes_and_with_proposed_instructions(
    folder: Path, server: MockServer, pdr: Callable[..., Result]
) -> None:
    def writes(body: dict[str, Any], seed: int) -> str:
        if "You improve the instructions" in body["messages"][0]["content"]:
            return f"Carefully add one to what is asked about, and say it number {seed} times."
        return add_one(body, seed)

    server.reply = writes
    axes = ("--axis", "widths=2, 5", "--axis", "rounds=1,2", "--axis", "distiller=random_k", "--axis", "critique=false")
    done = pdr(
        *("optimize", "addition", "--trials", "6", "--prompts", "2", "--api-base", server.api_base, "--run-dir", "out"),
        *(*axes, "--accept", "better", "--finalists", "1", "--storage", "shared", "--study", "mine"),
        *("--stop", "worth", "--price", "0", "--margin", "0.02"),
    )
    assert done.exit_code == 0, done.stderr
    assert "a model writes 2 instructions each for draft, refine" in done.stderr
    assert "trials:  optuna-dashboard shared/study.journal" in done.stderr
    facts = json.loads((folder / "out" / "search.json").read_text())
    assert facts["config"]["settings"]["space"]["widths"] == [2, 5]
    assert facts["config"]["settings"]["final"]["programs"] == 1
    assert "tied" in facts
    assert facts["stopped"] == "6 trials were measured"  # at no price
    assert len(facts["proposals"]["proposals"]) >= 2
    assert {tuple(trial["schedule"]["widths"][:-1]) for trial in facts["trials"][1:]} <= {(), (2,), (5,)}
    assert any(trial["instructions"] for trial in facts["trials"])
    again = ("optimize", "addition", "--trials", "5", "--api-base", server.api_base, "--run-dir", "next")
    done = pdr(*again, "--finalists", "1", "--prior", "out")
    assert done.exit_code == 0, done.stderr
    facts = json.loads((folder / "next" / "search.json").read_text())
    assert facts["config"]["settings"]["prior"]["searches"] == 1
    assert 0 <= facts["prior_weight"] <= 1


def test_a_prior_that_is_no_search_is_one_sentence(folder: Path, pdr: Callable[..., Result]) -> None:
    done = pdr("optimize", "addition", "--prior", "nowhere", "--dry-run")
    assert done.exit_code != 0
    assert "it must be the run folder of a finished search" in done.stderr


@pytest.mark.slow
def test_another_server_writes_the_instructions_in_rounds(
    folder: Path, server: MockServer, pdr: Callable[..., Result]
) -> None:
    def writes(body: dict[str, Any], seed: int) -> str:
        assert "You improve the instructions" in body["messages"][0]["content"]
        return f"Carefully add one to what is asked about, and say it number {seed} times."

    server.reply = add_one
    command = ("optimize", "addition", "--api-base", server.api_base, "--run-dir", "out", "--trials", "6")
    rounds = ("--prompts", "1", "--prompt-rounds", "2", "--axis", "rounds=1", "--axis", "widths=1,2", "--axis", "k=1")
    with MockServer() as writer:
        writer.reply = writes
        done = pdr(*command, *rounds, "--prompt-api-base", writer.api_base)
        assert done.exit_code == 0, done.stderr
        sent = [body for body in writer.requests if "messages" in body]
    facts = json.loads((folder / "out" / "search.json").read_text())
    assert facts["config"]["settings"]["instructions"] == {"count": 1, "rounds": 2}
    assert len(sent) == len(facts["proposals"]["ledger"]["calls"]) >= 1
    assert not any("You improve the instructions" in json.dumps(body) for body in server.requests)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--prompts", "1", "--prompt-model", "m"), "names a model of a running server: add `--prompt-api-base`"),
        (("--prompt-api-base", "http://127.0.0.1:9"), "`--prompt-api-base` is the model that writes instructions"),
        (("--prompt-model", "m", "--prompt-api-base", "http://127.0.0.1:9"), "add `--prompts`"),
        (("--prompts", "1", "--prompt-rounds", "0"), "prompt-rounds"),
    ],
)
def test_a_writer_without_what_it_needs_is_refused(
    folder: Path, pdr: Callable[..., Result], options: tuple[str, ...], sentence: str
) -> None:
    done = pdr("optimize", "addition", *options)
    assert done.exit_code != 0
    assert sentence in done.stderr
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("axis", "sentence"),
    [
        ("width=1,2", "there is no axis 'width'; the axes are rounds, widths,"),
        ("widths", "names no values; write `--axis widths=V1,V2`"),
        ("widths=", "names no values"),
        ("widths=0", "widths"),
        ("widths=2,2", "has a duplicate candidate"),
        ("kappa=many", "kappa"),
        ("distiller=best", "distiller"),
        ("monotone=true,false", "monotone must be"),
        ("instructions=x", "use `--prompts`"),
    ],
)
def test_an_axis_that_cannot_be_is_one_sentence(
    folder: Path, pdr: Callable[..., Result], axis: str, sentence: str
) -> None:
    done = pdr("optimize", "addition", "--axis", axis, "--dry-run")
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert done.stderr.count("error: ") == 1
    assert len(done.stderr) < 600


@pytest.mark.slow
@pytest.mark.parametrize(
    "storage", ["none", "folder", pytest.param("postgres", marks=pytest.mark.xdist_group("postgres"))]
)
def test_optimize_has_one_driver_and_goes_on_after_a_kill(
    folder: Path, server: MockServer, pdr: Callable[..., Result], storage: str, request: pytest.FixtureRequest
) -> None:
    place = {"none": [], "folder": ["--storage", "shared"]}.get(storage)
    if place is None:
        place = ["--storage", request.getfixturevalue("postgres").database()]
    line = ("optimize", "addition", "--api-base", server.api_base, "--trials", "7", "--run-dir")
    alone = pdr(*line, "alone")
    assert alone.exit_code == 0, alone.stderr
    needed = len(server.requests)
    command = (*line, "out", *place)
    server.gate = threading.Event()  # nobody gets an answer yet
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    driver = subprocess.Popen(
        [sys.executable, "-m", "pdr_dspy", *command], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        while len(server.requests) == needed and driver.poll() is None:
            server.gate.wait(0.05)
        other = pdr(*command)
    finally:
        driver.kill()
        driver.communicate()
    assert other.exit_code == 1
    assert f"is driven by process {driver.pid} on " in other.stderr
    assert "wait for its end or stop it" in other.stderr
    server.gate.set()
    done = pdr(*command)
    assert done.exit_code == 0, done.stderr
    shared, single = (json.loads((folder / name / "search.json").read_text()) for name in ("out", "alone"))
    keys = ("number", "origin", "schedule", "score", "pooled", "sequential", "total", "dropped")
    assert [[trial[key] for key in keys] for trial in shared["trials"]] == [
        [trial[key] for key in keys] for trial in single["trials"]
    ]
    assert shared["paid"] == single["paid"]
    sent = len(server.requests)
    assert sent <= 2 * needed + 64  # what was in flight at the kill
    assert pdr(*command).exit_code == 0
    assert len(server.requests) == sent
