"""A training run from its arguments to a model folder that transformers loads."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, cast

import dspy
import pytest
import torch
from peft import LoraConfig
from safetensors import safe_open
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from pdr_dspy.cli.app import app
from pdr_dspy.errors import ConfigError, DataError, StoreError
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.strategies import PDR, LongCoT
from pdr_dspy.runtime import locks
from pdr_dspy.training.config import Lora, TrainingConfig, read_config
from pdr_dspy.training.dataset import mode_rows
from pdr_dspy.training.run_folder import read_log
from pdr_dspy.training.train import train
from pdr_dspy.training.trainer import OperatorTrainer
from pdr_dspy.training.trl_config import OperatorConfig
from pdr_dspy.verifiers import Score
from tests.support.one_thread import one_thread  # noqa: F401  (a fixture)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("training")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a random model over the letters of ASCII, and over 26 answers."""
    folder = tmp_path_factory.mktemp("model")
    letters = ["<pad>", "<end>", *map(chr, range(32, 127)), "\n"]
    letters += [f"\nAnswer: {chr(letter)}\n" for letter in range(97, 123)]
    inner = Tokenizer(WordLevel({letter: place for place, letter in enumerate(letters)}, unk_token=" "))
    inner.pre_tokenizer = Split("", "isolated")
    inner.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<end>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(letters), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=4096, initializer_range=0.4, bos_token_id=None, eos_token_id=1,
        pad_token_id=0,
    )  # fmt: skip
    cast(Any, LlamaForCausalLM(config)).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return str(folder)


class Early:
    """Right where a letter of the first half of the alphabet comes first in the answer: a coin for a random model."""

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Score:
        return Score(float(str(prediction.answer)[0].lower() < "n"))

    def check_gold(self, example: dspy.Example) -> None:
        pass

    def describe(self) -> dict[str, Any]:
        return {"kind": "Early"}


class Short(dspy.Signature):
    """Say something."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


def program(**settings: Any) -> Operator:
    return PDR(Short, **{"widths": (3, 1), "distiller": "summary", "kappa": 64, "draft_tokens": 6, **settings})


def questions(count: int = 4) -> list[dspy.Example]:
    return [dspy.Example(question=f"{n}?", answer="a", id=n).with_inputs("question") for n in range(count)]


def config(folder: str, **given: Any) -> TrainingConfig:
    usual = {"model": folder, "steps": 1, "groups": 2, "rows": 10, "learning_rate": 0.01, "save_every": 1}
    return TrainingConfig(**{**usual, **given})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    loaded: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype="float32")
    return loaded.state_dict()


def differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    return any(not torch.equal(one[name], other[name]) for name in one)


def test_a_run_gives_a_folder_that_transformers_loads_and_continues(model: str, tmp_path: Path) -> None:
    output, told = tmp_path / "run", []
    made = train(program(), questions(), Early(), config(model), output, progress=lambda step, _: told.append(step))
    assert made == output / "model"
    first = weights(made)
    assert differ(first, weights(Path(model)))
    assert AutoTokenizer.from_pretrained(str(made)).decode([34, 35]) == "@A"
    assert not list(made.glob("*.bin"))
    (line,) = read_log(output / "log.jsonl")
    assert (line["step"], told) == (1, [1])
    assert {"trace/reward", "operator/reward", "sampled/tokens"} <= line.keys()
    result = json.loads((output / "result.json").read_text())
    assert (result["steps"], result["resumed_from"], result["counts"]["episodes"]) == (1, None, 12)

    before = (made / "config.json").stat().st_mtime_ns
    assert train(program(), questions(), Early(), config(model), output) == made
    assert (made / "config.json").stat().st_mtime_ns == before

    train(program(), questions(), Early(), config(model, steps=2), output)
    assert json.loads((output / "result.json").read_text())["resumed_from"] == "checkpoint-1"
    assert [line["step"] for line in read_log(output / "log.jsonl")] == [1, 2]
    resumed = weights(made)
    assert differ(resumed, first)
    train(program(), questions(), Early(), config(model, steps=2), tmp_path / "at once")
    assert not differ(resumed, weights(tmp_path / "at once" / "model"))

    with pytest.raises(ConfigError, match=r"`steps` is 1, .* 2 steps already \(checkpoint-2\)"):
        train(program(), questions(), Early(), config(model), output)
    assert json.loads((output / "result.json").read_text())["steps"] == 2
    assert json.loads((output / "config.json").read_text())["config"]["steps"] == 2


def test_a_half_written_checkpoint_does_not_stop_the_next_start(
    model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    single, settings = LongCoT(Short, draft_tokens=6), {"operator_share": 0, "rows": 2, "groups": 1}
    train(single, questions(2), Early(), config(model, **settings), tmp_path)
    (tmp_path / "checkpoints" / "checkpoint-3").mkdir()
    train(single, questions(2), Early(), config(model, steps=2, **settings), tmp_path)
    assert json.loads((tmp_path / "result.json").read_text())["resumed_from"] == "checkpoint-1"
    assert "checkpoint-3 is not whole" in caplog.text
    assert "goes on from checkpoint-1" in caplog.text


def test_a_second_run_waits_for_the_first(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "POLL", (0.0, 0.0))
    made = train(program(), questions(), Early(), config(model), tmp_path)
    lock = locks.Lock(tmp_path / "train.lock")
    assert lock.acquire()
    other = threading.Thread(target=train, args=(program(), questions(), Early(), config(model), tmp_path))
    other.start()
    while "waiting for its end" not in caplog.text:
        other.join(0.01)
    lock.release()
    other.join()
    assert f"{tmp_path} is in use by process {os.getpid()} on " in caplog.text
    assert made.is_dir()


def test_with_an_adapter_the_model_is_whole(model: str, tmp_path: Path) -> None:
    settings = config(model, lora=Lora(rank=2, alpha=4), operator_share=1.0, starts=0.5, train_calls="refine", rows=2)
    made = train(program(), questions(), Early(), settings, tmp_path)
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    assert not (made / "adapter_config.json").exists()
    assert differ(weights(made), weights(Path(model)))
    (line,) = read_log(tmp_path / "log.jsonl")
    assert "operator/reward" in line
    assert "trace/reward" not in line


def test_an_adapter_for_the_distiller_alone(model: str, tmp_path: Path) -> None:
    settings = config(model, lora=Lora(rank=2, alpha=4), train_calls="distill", rows=8, steps=2)
    assert settings.operator_share == 1.0
    train(program(), questions(), Early(), settings, tmp_path)
    first, second = read_log(tmp_path / "log.jsonl")
    assert first["operator/reward"] in [n / 8 - 1 for n in range(17)]
    assert "trace/reward" not in first
    assert first["sampled/calls"] == 16 * 5, "drafts and refinements are sampled too"
    assert (second["sampled/gap"], first["sampled/gap"]) == pytest.approx((0, 0), abs=1e-4)
    moved: dict[str, torch.Tensor] = {}
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "pt") as file:
        moved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert any(tensor.abs().sum() > 0 for name, tensor in moved.items() if "lora_B" in name)


def test_the_base_answers_without_the_adapter(model: str, tmp_path: Path) -> None:
    args = OperatorConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
        per_device_train_batch_size=4, num_generations=4, epsilon_high=5.0, operator_share=0,
        dataloader_pin_memory=False,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    rows = mode_rows(questions(), ("trace",))
    kinds = {
        "plain": OperatorTrainer(model, lambda groups, policy: [], args, rows, processing_class=tokenizer),
        "adapted": OperatorTrainer(
            model, lambda groups, policy: [], args, rows, processing_class=tokenizer,
            peft_config=LoraConfig(r=8, lora_alpha=256, target_modules="all-linear", init_lora_weights=False),
        ),
    }  # fmt: skip
    asked: Any = ([[40, 41, 42], [50]], [8, 8], 0.0)
    plain, adapted = kinds["plain"].policy, kinds["adapted"].policy
    expected = plain.generate(*asked)
    for same in (adapted.generate_base(*asked), plain.generate_base(*asked)):
        assert [one.ids for one in same] == [one.ids for one in expected]
        for one, other in zip(same, expected, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
    assert adapted.generate(*asked)[0].logprobs[0] != pytest.approx(expected[0].logprobs[0], abs=1e-3)


def test_a_folder_holds_one_run(model: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"kind": "training", "version": 1, "program": "another"}))
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(StoreError, match="`program` was 'another'"):
        train(program(), questions(), Early(), config(model), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"version": 1, "program": "another"}))
    with pytest.raises(StoreError, match="another kind of run"):
        train(program(), questions(), Early(), config(model), tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(StoreError, match="not empty"):
        train(program(), questions(), Early(), config(model), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rows": 7}, "whole operator episodes of 5 trained calls"),
        ({"groups": 3}, "3 groups .* is 1.5"),
        ({"rows_per_pass": 8}, "does not divide the 20 rows"),
        ({"operator_share": "half"}, "trace:operator"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"learnin_rate": 1}, "there is no `learnin_rate`"),
        ({"model": "./no such folder"}, "cannot be loaded"),
        ({"schedule": {"widths": [3]}}, "must end in 1"),
        ({"schedule": {"temperature": 0.5}}, r"Schedule\(temperature=0.5\)"),
        ({"schedule": {"widths": [1]}}, "needs a program of two rounds or more"),
        ({"schedule": {"widths": [1]}, "groups": 1}, "needs a program of two rounds or more"),
        ({"groups": 1}, "1 group of .* is 0.5, .* change `operator_share`, or .* which is `groups` of TrainingConfig"),
        ({"rows": 7}, r"7 rows \(`rows` of TrainingConfig"),
        ({"process_rewards": True, "train_calls": "refine"}, 'needs `train_calls="all"`'),
        ({"train_calls": "select"}, "it makes distill calls"),
        (
            {"train_calls": "select", "schedule": {"distiller": "topk", "k": 1, "widths": [1, 1]}},
            "leaves nothing to pick",
        ),
        ({"lora": Lora(targets=("nope",))}, r"`TrainingConfig\(lora=Lora\(targets=\('nope',\)\)\)` is refused"),
        ({"loggers": ("nope",)}, r"`TrainingConfig\(loggers=\['nope'\]\)`: nope is not supported"),
        (
            {"template_options": {"tokenize": True}},
            r"`TrainingConfig\(template_options={'tokenize': ...}\)`: .*leave it",
        ),
        ({"learning_rate": math.inf}, r"learning_rate=inf\)` must be a finite number"),
        ({"epsilon_high": math.inf}, "epsilon_high=inf"),
        ({"alpha": math.nan}, "alpha=nan"),
        ({"operator_share": math.inf}, "operator_share"),
        ({"train_calls": "distill", "operator_share": "1:1"}, "a long trace has no distill call"),
        ({"train_calls": "distill", "lora": Lora(), "vllm": "colocate"}, "leave `vllm` out"),
        ({"trl": {"learning_rate": 1.0}}, "is set by a field"),
        ({"trl": {"learning_rat": 1.0}}, "no such field"),
        ({"trl": {"temperature": 0.5}}, "must stay 1.0"),
        ({"trl": {"optim": "no such optimizer"}}, "TRL refuses"),
        ({"draft_tokens": 5000}, "example '0': .* context is 4096"),
    ],
)
def test_what_cannot_work_is_reported_before_the_model_is_loaded(
    model: str, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    own = {key: change.pop(key) for key in ("draft_tokens",) if key in change}
    with pytest.raises(ConfigError, match=sentence):
        train(program(**own), questions(), Early(), config(model, **change), tmp_path / "run")


def test_programs_and_questions_are_checked(model: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes an operator"):
        train(dspy.Predict(Short), questions(), Early(), config(model), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="empty"):
        train(program(), [], Early(), config(model), tmp_path)
    with pytest.raises(DataError, match="question"):
        train(program(), [dspy.Example(text="?").with_inputs("text")], Early(), config(model), tmp_path)
    with pytest.raises(ConfigError, match="needs 2 different"):
        train(program(), questions(1), Early(), config(model, groups=4), tmp_path / "few")


def test_long_traces_alone_need_no_pdr_program(model: str, tmp_path: Path) -> None:
    single = LongCoT(Short, draft_tokens=6)
    made = train(single, questions(), Early(), config(model, operator_share=0, rows=4, groups=1), tmp_path)
    assert (made / "config.json").is_file()


def test_a_config_is_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"model": "m", "rows": 10, "lora": {"rank": 4}, "schedule": {"widths": [4, 1]}}))
    found = read_config(path, TrainingConfig)
    assert (found.lora, found.rows) == (Lora(rank=4), 10)
    assert TrainingConfig(**json.loads(found.model_dump_json())) == found
    for text, sentence in (("{", "is not JSON"), ("[]", "one JSON object"), ('{"rows": 4}', "model")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=sentence):
            read_config(path, TrainingConfig)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "none.json", TrainingConfig)


PROGRAM = """
import dspy
from pdr_dspy.operators.strategies import PDR
from pdr_dspy.verifiers import ExactVerifier

def build():
    return PDR("question -> answer", widths=(3, 1), distiller="summary", kappa=64, draft_tokens=6)

def data(split="test", *, limit=None, seed=0):
    return [dspy.Example(question=f"{n}?", answer="a", id=n).with_inputs("question") for n in range(4)][:limit]

def verifier():
    return ExactVerifier()
"""


def test_at_the_command_line(model: str, tmp_path: Path) -> None:
    (tmp_path / "said_for_training.py").write_text(PROGRAM)
    settings = {"model": model, "rows": 2, "groups": 1, "steps": 1, "operator_share": 0, "limit": 2}
    (tmp_path / "train.json").write_text(json.dumps(settings))

    def pdr_train(target: str, config: str = "train.json") -> Any:
        arguments = ["train", target, "--config", str(tmp_path / config), "--output", str(tmp_path / "run")]
        return CliRunner().invoke(app, arguments)

    done = pdr_train(str(tmp_path / "said_for_training.py"))
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "run" / "model")
    assert "step 1 of 1: trace/reward" in done.stderr
    again = pdr_train(str(tmp_path / "said_for_training.py"))
    assert (again.exit_code, again.stdout) == (0, done.stdout)
    missing = pdr_train(str(tmp_path / "said_for_training.py"), "none.json")
    assert (missing.exit_code, "cannot be read" in missing.stderr) == (2, True)
    plain = re.sub("return PDR.*", "return dspy.Predict('question -> answer')", PROGRAM)
    (tmp_path / "other_for_training.py").write_text(plain)
    other = pdr_train(str(tmp_path / "other_for_training.py"))
    assert (other.exit_code, "takes an operator" in other.stderr) == (2, True)


def test_torch_is_imported_where_it_trains_alone() -> None:
    modules = ["pdr_dspy", "pdr_dspy.cli.app", "pdr_dspy.cli.train"]
    modules += [
        f"pdr_dspy.training.{name}"
        for name in ("types", "dataset", "policy_lm", "rollout", "train", "export_sft", "export_verl")
    ]
    code = f"import sys, {', '.join(modules)}; print(sorted({{'torch', 'transformers', 'trl'}} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert shown.stdout.strip() == "[]"
