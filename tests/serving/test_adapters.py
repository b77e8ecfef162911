"""An adapter beside its model: how each kind of server is asked for it, and what stays that of the model alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import dspy
import pytest
from typer.testing import CliRunner

import pdr_dspy
from pdr_dspy import calls
from pdr_dspy.calls import Adapter, Priced, Rollouts
from pdr_dspy.cli.app import app
from pdr_dspy.errors import ConfigError, EndpointError
from pdr_dspy.evaluation import evaluate
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.strategies import PDR
from pdr_dspy.serving import EndpointLM, LlamaCppServer, VLLMServer, connect, vllm
from pdr_dspy.verifiers import NumberVerifier
from tests.support.mock_server import MockServer


def served(body: dict[str, Any]) -> str:
    """Which weights a request asks for, as the real servers decide it."""
    for lora in body.get("lora", ()):
        if lora["scale"]:
            return f"adapter {lora['id']} x {lora['scale']}"
    return f"model {body['model']}"


def reply(body: dict[str, Any], seed: int) -> str:
    user = body["messages"][-1]["content"]
    if "Candidates:" in user:
        right = re.search(r"Candidate (\d+):\nAnswer: 2\b", user)
        return f"Selected: [{right[1] if right else 1}]" if served(body) in PICKERS else "Selected: [1]"
    return f"Answer: {seed % 4}"


PICKERS = ("adapter 1 x 1.0", "model picker", "model mock:picker")


def mock(kind: str, **adapters: str) -> MockServer:
    server = MockServer(reply, kind=kind)
    server.adapters = adapters
    return server


ADAPTERS = {"other": "/loras/other.gguf", "picker": "/loras/picker.gguf"}


def ask(lm: dspy.LM) -> None:
    lm("How many?")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("llama.cpp", {"model": "mock", "lora": [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}]}),
        ("vllm", {"model": "picker"}),
        ("other", {"model": "mock:picker"}),  # as SGLang has it
    ],
)
def test_each_kind_of_server_is_asked_in_its_own_way(kind: str, body: dict[str, Any]) -> None:
    with mock(kind, **ADAPTERS) as server:
        base = connect("mock", server.api_base)
        base.check_sync()
        picker = base.with_adapter("picker")
        ask(base)
        ask(picker)
        first, second = server.requests
        assert {name: value for name, value in second.items() if name in ("model", "lora")} == body
        # llama.cpp would read a prompt that it cached with the adapter if the scales were not stated
        stated = [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 0.0}] if kind == "llama.cpp" else None
        assert (first["model"], first.get("lora")) == ("mock", stated)
        assert base.with_adapter("picker") is picker
        assert picker.model.startswith("endpoint/mock:picker@")
        base.close()


@pytest.mark.parametrize("kind", ["llama.cpp", "vllm"])
def test_siblings_share_a_request_with_the_adapter(kind: str) -> None:
    with mock(kind, **ADAPTERS) as server:
        picker = connect("mock", server.api_base, adapter="picker")
        program = PDR("question -> answer", widths=(3, 1), distiller="random_k", k=1)
        with dspy.context(lm=picker):
            program(question="1 + 1?")
        wide, _ = server.requests
        assert wide["n"] == 3
        assert all(served(body) in PICKERS for body in server.requests)
        picker.close()


@pytest.mark.parametrize("kind", ["llama.cpp", "vllm"])
def test_a_missing_adapter_is_told(kind: str) -> None:
    with mock(kind, other="/loras/other.gguf") as server:
        picker = connect("mock", server.api_base, adapter="picker")
        with pytest.raises(EndpointError, match=r"`adapter='picker'` is not one of .* which has 'other'"):
            picker.check_sync()
        with pytest.raises(dspy.LMError, match="no adapter 'picker'; it has 'other'; start it with `--lora-"):
            ask(picker)
        assert not server.requests
        other = connect("mock", server.api_base, adapter="other")
        other.check_sync()
        for lm in (picker, other):
            lm.close()


@pytest.mark.parametrize("kind", ["llama.cpp", "vllm"])
def test_the_model_is_the_same_with_and_without_adapters_at_its_side(kind: str) -> None:
    identities = []
    for adapters in ({}, ADAPTERS):
        with mock(kind, **adapters) as server:
            base = connect("mock", server.api_base)
            identities.append(base.capabilities_sync().identity.replace(str(server.port), "PORT"))
            if adapters:
                own = base.with_adapter("picker").capabilities_sync().identity
                other = base.with_adapter("other").capabilities_sync().identity
                assert len({own, other, base.capabilities_sync().identity}) == 3
                assert "mock:picker@" in own
                assert "/loras/picker.gguf" in own
            base.close()
    assert identities[0] == identities[1]


def test_llamas_files_identify_the_adapter_on_any_machine(tmp_path: Path) -> None:
    files = [tmp_path / "model.gguf", tmp_path / "picker.gguf"]
    for file in files:
        file.write_bytes(file.name.encode())

    def identity() -> str:
        with mock("llama.cpp", picker=str(files[1])) as server:
            server.told["/props"] = {"model_path": str(files[0])}
            picker = connect("mock", server.api_base, adapter="picker")
            found = picker.capabilities_sync().identity
            picker.close()
            return found

    first = identity()
    assert first.startswith("endpoint/mock:picker:")
    assert "127.0.0.1" not in first
    assert identity() == first, "on another port"
    files[1].write_bytes(b"trained again")
    assert identity() != first


def question(n: int) -> dspy.Example:
    return dspy.Example(question=f"{n}?", answer="2", id=str(n)).with_inputs("question")


def program(**models: Any) -> Operator:
    given = {"picker": models.pop("picker", Adapter("picker"))}
    return PDR(
        "question -> answer", widths=(4, 1), distiller="topk", k=1, distill_model="picker", models=given, **models
    )


@pytest.mark.parametrize("kind", ["llama.cpp", "vllm", "other"])
def test_only_the_picks_are_the_adapters_and_the_store_keeps_serving_drafts(kind: str, tmp_path: Path) -> None:
    plain = PDR("question -> answer", widths=(4, 1), distiller="topk", k=1)
    with mock(kind, **ADAPTERS) as server, Rollouts(tmp_path) as store:
        lm = connect("mock", server.api_base)
        with dspy.context(lm=lm), calls.session(store=store):
            before = plain(question="1?")
            sent = len(server.requests)
            after = program()(question="1?")
            picks = [body for body in server.requests if "Candidates:" in body["messages"][-1]["content"]]
        assert [served(body) in PICKERS for body in picks] == [False, True]
        drafts = [[call for call in each.ledger.calls if call.phase == "draft"] for each in (before, after)]
        assert all(call.reused for call in drafts[1])
        assert [call.key for call in drafts[0]] == [call.key for call in drafts[1]]
        assert len(server.requests) - sent <= 2, "a pick, and a refinement if it read another workspace"
        assert {call.model.partition("@")[0] for call in after.ledger.calls if call.phase == "select"} == {
            "endpoint/mock:picker"
        }
        lm.close()


def test_an_evaluation_names_both_models(tmp_path: Path) -> None:
    with mock("vllm", **ADAPTERS) as server:
        lm = connect("mock", server.api_base)
        with dspy.context(lm=lm):
            evaluate(program(), [question(1), question(2)], NumberVerifier(), run_dir=tmp_path)
        models = json.loads((tmp_path / "config.json").read_text())["models"]
        assert sorted(name.partition("@")[0] for name in models) == ["endpoint/mock", "endpoint/mock:picker"]
        lm.close()


def test_it_is_saved_and_loaded_with_the_program(tmp_path: Path) -> None:
    pdr_dspy.save(program(), tmp_path / "p.json")
    assert "adapter/picker" in (tmp_path / "p.json").read_text()
    loaded: Any = pdr_dspy.load(tmp_path / "p.json")
    assert isinstance(loaded.models["picker"], Adapter)
    with mock("vllm", **ADAPTERS) as server:
        lm = connect("mock", server.api_base)
        with dspy.context(lm=lm):
            loaded(question="1?")
        assert "picker" in [body["model"] for body in server.requests]
        own = lm.with_adapter("other")
        given: Any = pdr_dspy.load(tmp_path / "p.json", models={"picker": own})
        assert given.models["picker"] is own, "a model that is given takes its place"
        state = lm.with_adapter("picker").dump_state()
        again = EndpointLM.load_state(json.loads(json.dumps(state)))
        ask(again)
        assert server.requests[-1]["model"] == "picker"
        again.close()
        lm.close()


def test_an_adapter_costs_what_its_model_costs() -> None:
    with mock("vllm", **ADAPTERS) as server:
        lm = connect("mock", server.api_base)
        priced = program().with_models({"base": Priced(lm, input=1.0, output=2.0)})
        used = priced.with_schedule(priced.schedule.replace(draft_model="base", distill_model="picker"))
        made = used(question="1?")
        assert {call.price for call in made.ledger.calls} == {(1.0, 2.0)}
        with dspy.context(lm=lm):
            dear = program(picker=Priced(Adapter("picker"), input=5.0, output=5.0))(question="1?")
        assert [call.price for call in dear.ledger.calls if call.phase == "select"] == [(5.0, 5.0)]
        lm.close()


def test_what_cannot_have_an_adapter() -> None:
    with MockServer() as server:
        lm = connect("mock", server.api_base)
        with pytest.raises(ConfigError, match="already a model with an adapter"):
            lm.with_adapter("a").with_adapter("b")
        with pytest.raises(ConfigError, match=r"connect\(adapter=' '\)"):
            connect("mock", server.api_base, adapter=" ")
        lm.close()
    with pytest.raises(ConfigError, match="must be the name"):
        Adapter("")
    with pytest.raises(ConfigError, match="needs a model that serves adapters"):
        Adapter("picker").on(dspy.LM("openai/x"))
    with pytest.raises(dspy.LMError, match="is an adapter of a program's model, and none is set"):
        Adapter("picker")("hello")
    with pytest.raises(ConfigError, match="no language model is set"):
        program()(question="1?")


def adapter(folder: Path, rank: int) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    return folder


def test_vllms_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm.VLLMServer, "_check_machine", lambda self: None)
    one, two = adapter(tmp_path / "a" / "adapter", 4), adapter(tmp_path / "b" / "adapter", 48)
    server = VLLMServer("some/model", adapters={"picker": one, "judge": two})
    assert " ".join(server.command(1)).endswith(
        f"--enable-lora --max-loras 2 --max-lora-rank 64 --lora-modules picker={one} judge={two}"
    )
    plain = VLLMServer("some/model")
    assert "--enable-lora" not in plain.command(1)
    known, alone = server._connection(), plain._connection()
    assert known["identity"] == alone["identity"], "the model's own requests are the same"
    assert set(known["adapters"]) == {"picker", "judge"}
    before = known["adapters"]["picker"]
    (one / "adapter_model.safetensors").write_bytes(b"weights")
    assert server._connection()["adapters"]["picker"] != before
    for wrong in (tmp_path / "none", adapter(tmp_path / "wide", 1024)):
        with pytest.raises(ConfigError, match=r"LoRA adapter|up to 512"):
            VLLMServer("some/model", adapters={"picker": wrong})


def test_a_local_servers_adapter_is_known_without_asking() -> None:
    with mock("vllm", **ADAPTERS) as server:
        lm = connect("mock", server.api_base, identity="weights", adapters={"picker": "1a2b"})
        assert lm.with_adapter("picker").capabilities_sync().identity == "endpoint/weights:picker:1a2b"
        assert "other.gguf" in lm.with_adapter("other").capabilities_sync().identity
        lm.close()


def test_llamas_files_are_checked_before_a_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the adapter 'picker' has no file"):
        LlamaCppServer("smollm2-135m", adapters=[tmp_path / "picker.gguf"])
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "picker.gguf").write_bytes(b"")
    with pytest.raises(ConfigError, match="two files of one name"):
        LlamaCppServer("smollm2-135m", adapters=[tmp_path / folder / "picker.gguf" for folder in ("a", "b")])


def test_at_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm.VLLMServer, "_check_machine", lambda self: None)
    started: list[list[str]] = []

    def start(self: VLLMServer) -> None:
        started.append(self.command(1))
        raise ConfigError("far enough")

    monkeypatch.setattr(vllm.VLLMServer, "start", start)
    folder = adapter(tmp_path / "adapter", 16)
    runner = CliRunner()
    runner.invoke(app, ["serve-model", "some/model", "--vllm", "--adapter", f"picker={folder}"])
    assert started[0][-4:] == ["--max-lora-rank", "16", "--lora-modules", f"picker={folder}"]
    refused = runner.invoke(app, ["serve-model", "some/model", "--vllm", "--adapter", str(folder)])
    assert (refused.exit_code, "must be NAME=FOLDER" in refused.output) == (2, True)
    refused = runner.invoke(app, ["serve-model", "smollm2-135m", "--adapter", str(tmp_path / "picker.gguf")])
    assert (refused.exit_code, "has no file" in refused.output) == (2, True)
