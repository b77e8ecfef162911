"""Supervised training on chat samples."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from pdr_dspy.cli.app import app
from pdr_dspy.errors import ConfigError, DataError, StoreError
from pdr_dspy.training import export_sft
from pdr_dspy.training.config import ImitationConfig, Lora
from pdr_dspy.training.export_sft import Sample
from pdr_dspy.training.policy_lm import prompt_ids
from pdr_dspy.training.run_folder import read_log
from pdr_dspy.training.sft import imitate, read_samples, tokenized
from tests.support.one_thread import one_thread  # noqa: F401  (a fixture)
from tests.support.training_policy import LETTERS, letters

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("training")]
TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}{{ m.content }}{% if m.role == 'assistant' %}<end>9{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}a{% endif %}"
)
"""As of real models: the turn's end is a special token, and something follows it."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(LETTERS) + 3, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32, initializer_range=0.4, bos_token_id=None,
        eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    cast(Any, LlamaForCausalLM(config)).save_pretrained(str(folder))
    tokenizer = letters()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(str(folder))
    return str(folder)


def sample(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def written(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids).replace(" ", "")


def write(path: Path, samples: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in samples))
    return path


def config(folder: str, **given: Any) -> ImitationConfig:
    return ImitationConfig(**{"model": folder, "batch": 4, "steps": 2, "lora": Lora(rank=4, alpha=8), **given})


def test_only_the_answer_and_the_end_of_its_turn_are_learnt() -> None:
    tokenizer = letters()
    (messages,) = [sample("q1", "xyz")["messages"]]
    plain = tokenized(tokenizer, messages)
    assert written(tokenizer, plain.ids[plain.prompt :]) == "xyz<end>"
    tokenizer.chat_template = TEMPLATE
    read = tokenized(tokenizer, messages)
    assert written(tokenizer, read.ids) == "uq1axyz<end>", "nothing after the end of the turn"
    assert read.ids[: read.prompt] == prompt_ids(tokenizer, messages[:-1]), "as the prompt is at inference"
    assert read.labels == [-100] * 4 + read.ids[4:]
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}0{{ messages | length }}{% endfor %}"
    other = tokenized(tokenizer, messages)
    assert written(tokenizer, other.ids[other.prompt :]) == "xyz<end>"


def test_the_loss_is_that_of_the_answers(model: str, tmp_path: Path) -> None:
    """The first logged loss is the mean negative log-likelihood of the answers' tokens under the base model."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    samples = [sample("q1", "x"), sample("q2ab", "yzyz")]
    imitate(write(tmp_path / "s.jsonl", samples), config(model, batch=2, steps=1), tmp_path / "run")
    base: Any = AutoModelForCausalLM.from_pretrained(model)
    losses = []
    for each in samples:
        read = tokenized(tokenizer, each["messages"])
        logps = base(torch.tensor([read.ids])).logits[0].log_softmax(-1)
        losses += [-logps[place - 1, read.ids[place]].item() for place in range(read.prompt, len(read.ids))]
    (line,) = read_log(tmp_path / "run" / "log.jsonl")
    assert line["loss"] == pytest.approx(sum(losses) / len(losses), abs=2e-3)


def test_an_adapter_learns_and_the_base_is_left_as_it_was(model: str, tmp_path: Path) -> None:
    samples = write(tmp_path / "s.jsonl", [sample("q", "xx"), sample("r", "yy"), sample("s", "zz")] * 4)
    settings = config(model, steps=60, learning_rate=0.02, save_every=30)
    made = imitate(samples, settings, tmp_path / "run")
    losses = [line["loss"] for line in read_log(tmp_path / "run" / "log.jsonl")]
    assert losses[-1] < 0.1 < losses[0]
    tokenizer = AutoTokenizer.from_pretrained(model)
    base: Any = AutoModelForCausalLM.from_pretrained(model)
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "run" / "adapter"))
    merged: Any = AutoModelForCausalLM.from_pretrained(str(made))

    def says(which: Any, question: str) -> str:
        ids = torch.tensor([prompt_ids(tokenizer, [{"role": "user", "content": question}])])
        out = which.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
        return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).replace(" ", "")

    assert [says(adapted, letter) for letter in "qrs"] == ["xx", "yy", "zz"]
    assert [says(merged, letter) for letter in "qrs"] == ["xx", "yy", "zz"]
    with adapted.disable_adapter():
        untouched: Any = AutoModelForCausalLM.from_pretrained(model)
        assert [says(adapted, letter) for letter in "qrs"] == [says(untouched, letter) for letter in "qrs"]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["steps"], result["samples"], result["too_long"], result["learnt_tokens"]) == (60, 12, 0, 36)
    assert imitate(samples, settings, tmp_path / "run") == made, "a finished run returns at once"
    assert len(read_log(tmp_path / "run" / "log.jsonl")) == 60


def test_a_stopped_run_goes_on_and_another_is_refused(model: str, tmp_path: Path) -> None:
    samples = write(tmp_path / "s.jsonl", [sample("q", "xx")] * 4)
    imitate(samples, config(model, steps=2, save_every=2), tmp_path / "run")
    imitate(samples, config(model, steps=3, save_every=2), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["resumed_from"] == "checkpoint-2"
    assert [line["step"] for line in read_log(tmp_path / "run" / "log.jsonl")] == [1, 2, 3]
    with pytest.raises(StoreError, match="`learning_rate` was"):
        imitate(samples, config(model, learning_rate=1e-3), tmp_path / "run")
    write(samples, [sample("r", "xx")] * 4)
    with pytest.raises(StoreError, match="`samples` was"):
        imitate(samples, config(model), tmp_path / "run")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.fixture(scope="module")
def stopped(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with samples and a run of 2 steps, with a checkpoint after each."""
    folder = tmp_path_factory.mktemp("stopped")
    imitate(write(folder / "s.jsonl", [sample("q", "xx")] * 4), config(model, save_every=1), folder / "run")
    return folder


@pytest.mark.parametrize(
    ("harm", "resumed", "said"),
    [
        (lambda path: (path / "checkpoint-9999").mkdir(), "checkpoint-2", "checkpoint-9999 is not whole"),
        (lambda path: cut(path / "checkpoint-2" / "optimizer.pt"), "checkpoint-1", "goes on from checkpoint-1"),
        (lambda path: cut(path / "checkpoint-2" / "adapter_model.safetensors"), "checkpoint-1", "safetensors is cut"),
        (lambda path: [(each / "trainer_state.json").unlink() for each in path.glob("c*")], None, "begins again"),
    ],
    ids=["empty", "optimizer", "weights", "all"],
)
def test_a_half_written_checkpoint_does_not_stop_the_next_start(
    model: str,
    stopped: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    harm: Any,
    resumed: str | None,
    said: str,
) -> None:
    shutil.copytree(stopped / "run", tmp_path / "run")
    harm(tmp_path / "run" / "checkpoints")
    imitate(stopped / "s.jsonl", config(model, steps=3, save_every=1), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["resumed_from"] == resumed
    assert [line["step"] for line in read_log(tmp_path / "run" / "log.jsonl")] == [1, 2, 3]
    (told,) = [record.getMessage() for record in caplog.records if record.name == "pdr_dspy"]
    assert said in told


def test_fewer_steps_than_were_trained_are_refused(model: str, stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped / "run", tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.json")}
    with pytest.raises(ConfigError, match=r"`steps` is 1, .* 2 steps already \(checkpoint-2\): give at least 2 steps"):
        imitate(stopped / "s.jsonl", config(model, steps=1, save_every=1), tmp_path / "run")
    assert {path: path.read_bytes() for path in (tmp_path / "run").glob("*.json")} == before
    assert imitate(stopped / "s.jsonl", config(model, save_every=1), tmp_path / "run").is_dir()


def test_a_refused_start_leaves_the_folder_to_the_mended_config(model: str, tmp_path: Path) -> None:
    samples = write(tmp_path / "s.jsonl", [sample("q", "xx")] * 4)
    with pytest.raises(ConfigError, match="nope"):
        imitate(samples, config(model, lora=Lora(targets=("nope",))), tmp_path / "run")
    imitate(samples, config(model, steps=1, lora=Lora(rank=2)), tmp_path / "run")
    with pytest.raises(StoreError, match="`lora"):
        imitate(samples, config(model, steps=1, lora=Lora(rank=4)), tmp_path / "run")


def test_samples_that_are_too_long_are_told(model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = write(tmp_path / "s.jsonl", [sample("q", "x"), sample("r", "y" * 40), sample("s", "zzzz")])
    imitate(samples, config(model, steps=1), tmp_path / "run")
    imitate(samples, config(model, steps=1, max_tokens=5), tmp_path / "short")
    told = [record.getMessage() for record in caplog.records if record.name == "pdr_dspy"]
    assert told == [
        "1 of 3 samples are longer than 32 tokens and are left out; the model's context holds no more",
        "2 of 3 samples are longer than 5 tokens and are left out; raise `max_tokens`",
    ]


def test_a_resumed_run_saves_as_often_as_it_is_told_now(model: str, tmp_path: Path) -> None:
    samples = write(tmp_path / "s.jsonl", [sample("q", "xx")] * 4)
    imitate(samples, config(model, steps=2, save_every=2), tmp_path / "run")
    imitate(samples, config(model, steps=5, save_every=3), tmp_path / "run")
    saved = {path.name for path in (tmp_path / "run" / "checkpoints").glob("checkpoint-*")}
    assert saved == {"checkpoint-3", "checkpoint-5"}


def test_all_weights_without_an_adapter_and_epochs(model: str, tmp_path: Path) -> None:
    samples = write(tmp_path / "s.jsonl", [sample("q", "x"), sample("r", "y" * 40), sample("s", "z")] * 2)
    imitate(samples, config(model, lora=None, steps=None, epochs=2, batch=2), tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["steps"], result["samples"], result["too_long"]) == (4, 4, 2)
    assert not (tmp_path / "run" / "adapter").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "has no samples"),
        ("{", "line 1, is no chat sample"),
        ('{"messages": [{"role": "user", "content": "q"}]}', "line 1"),
        ('{"messages": [{"role": "user", "content": "q"}, {"role": "user", "content": "a"}]}', "line 1"),
        ('{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": " "}]}', "line 1"),
        ('{"messages": [{"role": "user", "content": [1]}, {"role": "assistant", "content": "a"}]}', "line 1"),
        ("[1]", "line 1"),
        (json.dumps(sample("q", "a")) + "\n\nnull", "line 3"),
        ('{"messages": [{"content": "q"}, {"role": "assistant", "content": "a"}]}', "line 1"),
        ('{"messages": [{"role": null, "content": "q"}, {"role": "assistant", "content": "a"}]}', "line 1"),
    ],
)
def test_files_that_are_no_samples(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "s.jsonl").write_text(content)
    with pytest.raises(DataError, match=sentence):
        read_samples(tmp_path / "s.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        read_samples(tmp_path / "missing.jsonl")


def test_texts_with_other_ends_of_lines_are_read_as_they_were_written(tmp_path: Path) -> None:
    odd = "one\u2028two\u0085three\u000bfour"
    chat = ({"role": "user", "content": odd}, {"role": "assistant", "content": odd})
    export_sft.write(tmp_path / "s.jsonl", [Sample("draft", chat, "q1", 0, 1), Sample("draft", chat, "q2", 0, 1)])
    assert read_samples(tmp_path / "s.jsonl") == [list(chat), list(chat)]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rows_per_pass": 3}, "does not divide `batch=4`"),
        ({"trl": {"learning_rate": 1.0}}, "is set by a field"),
        ({"trl": {"learning_rat": 1.0}}, "no such field"),
        ({"trl": {"optim": "no such optimizer"}}, "TRL refuses"),
        ({"model": "./no such folder"}, "cannot be loaded"),
        ({"max_tokens": 2}, "all 1 samples have more than 2 tokens"),
        (
            {"lora": Lora(targets=("nope",))},
            r"`ImitationConfig\(lora=Lora\(targets=\('nope',\)\)\)` is refused: .*all-lin",
        ),
        ({"lora": Lora(targets="(")}, r"targets='\('\)\)` is refused: missing \)"),
        ({"lora": Lora(targets=())}, r"targets=\(\)\)\)` is refused"),
        ({"lora": Lora(targets=("lm_head",))}, "is refused: .*`lm_head` is not supported.*; give names"),
        ({"loggers": ("nope",)}, r"`ImitationConfig\(loggers=\['nope'\]\)`: nope is not supported, only .*tensorboard"),
        ({"loggers": ("dvclive",)}, "the package of 'dvclive' is not installed"),
        ({"template_options": {"tokenize": True}}, "`tokenize` is set by the training itself; leave it out"),
        ({"template_options": {"add_generation_prompt": False}}, "`add_generation_prompt` is set by"),
        ({"learning_rate": math.inf}, r"learning_rate=inf\)` must be a finite number"),
        ({"epochs": math.inf}, r"epochs=inf\)` must be a finite number"),
        ({"epochs": math.nan}, r"`ImitationConfig\(epochs=nan\)` must be"),
    ],
)
def test_settings_that_cannot_work(model: str, tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    samples = write(tmp_path / "s.jsonl", [sample("q", "x")])
    with pytest.raises((ConfigError, DataError), match=sentence):
        imitate(samples, config(model, **change), tmp_path / "run")


def test_at_the_command_line(model: str, tmp_path: Path) -> None:
    samples = write(tmp_path / "s.jsonl", [sample("q", "xx")] * 4)
    settings = tmp_path / "sft.json"
    settings.write_text(json.dumps({"model": model, "steps": 1, "batch": 4, "lora": {"rank": 2}}))
    arguments = ["train", "--config", str(settings), "--output", str(tmp_path / "run")]
    runner = CliRunner()
    done = runner.invoke(app, [*arguments, "--sft", str(samples)])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "run" / "adapter")
    assert (tmp_path / "run" / "adapter" / "adapter_config.json").is_file()
    for wrong in (arguments, [*arguments, "gsm8k", "--sft", str(samples)]):
        refused = runner.invoke(app, wrong)
        assert (refused.exit_code, "needs a program" in refused.output) == (2, True), refused.output
