"""LiveCodeBench: competition problems by date, graded by hidden inputs, checked by the public ones.

Data: livecodebench/code_generation_lite on the Hugging Face hub (CC; Jain et al., arXiv:2403.07974), the files
`test*.jsonl` of its releases. `test` is the newest file, `train` and `dev` are from the one before. The hidden tests
are packed as a pickle of one text; only that text is read, nothing is unpickled.

    pdr eval livecodebench --limit 20 --api-base http://127.0.0.1:8000/v1
"""

from __future__ import annotations

import base64
import json
import pickletools
import random
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dspy

from pdr_dspy import datasets
from pdr_dspy.errors import DataError, MissingExtra
from pdr_dspy.operators import PDR, Operator
from pdr_dspy.operators.schedule import until_checked
from pdr_dspy.verifiers import CodeVerifier, Verifier
from pdr_dspy.verifiers.checks import Check, CodeCheck
from pdr_dspy.verifiers.sandbox import Limits

HUB = "livecodebench/code_generation_lite"
FILES = {"test": "test6.jsonl", "train": "test5.jsonl", "dev": "test5.jsonl"}
LIMITS = Limits(seconds=12.0, memory=1024, output=4096)
_MOST = 512 * 2**20
"""The largest size of one problem's tests, in bytes."""


class Solve(dspy.Signature):
    """Solve the problem in Python. A program reads standard input and writes standard output; where the problem gives
    starter code, complete that."""

    prompt: str = dspy.InputField()
    public_tests: str = dspy.InputField(desc="examples")
    code: dspy.Code = dspy.OutputField()


def data(split: str = "test", *, limit: int | None = None, seed: int = 0) -> list[dspy.Example]:
    """`train`, `dev` or `test`; `seed` determines the order."""
    if split not in FILES:
        return datasets.part(dict.fromkeys(("train", "dev", "test"), ()), split, limit)
    problems = [problem(row) for row in rows(FILES[split])]
    if split == "test":
        random.Random(seed).shuffle(problems)
        return problems[:limit]
    train, dev = datasets.split(problems, len(problems) // 2, len(problems) - len(problems) // 2, seed=seed)
    return (train if split == "train" else dev)[:limit]


def rows(file: str) -> list[dict[str, Any]]:
    """The rows of one file of the set."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise MissingExtra("huggingface-hub", "data", "programs/livecodebench.py") from error
    try:
        path = Path(hf_hub_download(HUB, file, repo_type="dataset"))
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{file} of {HUB} could not be loaded from the Hugging Face hub: {first}") from error
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def problem(row: Mapping[str, Any]) -> dspy.Example:
    """A row as a problem, with its public tests as `public_tests` and all its tests as `test`."""
    public = json.loads(row["public_test_cases"])
    name = json.loads(str(row.get("metadata") or "{}")).get("func_name")
    starter = f"\n\nStarter code:\n{row['starter_code']}" if row.get("starter_code") else ""
    return dspy.Example(
        id=str(row["question_id"]),
        prompt=f"{row['question_content']}{starter}",
        public_tests=json.dumps(public),
        entry_point=name,
        test=[*public, *hidden_tests(row["private_test_cases"])],
        answer=row.get("answer", ""),
    ).with_inputs("prompt", "public_tests")


def hidden_tests(packed: str) -> list[dict[str, Any]]:
    """Read tests from JSON, or from compressed base64 JSON in a pickled text. Raises DataError for anything else."""
    try:
        return json.loads(packed)
    except ValueError:
        pass
    try:
        unpacking = zlib.decompressobj()
        plain = unpacking.decompress(base64.b64decode(packed), _MOST)
        if unpacking.unconsumed_tail:
            raise DataError(f"the hidden tests have more than {_MOST:,} bytes")
        texts = [str(argument) for step, argument, _ in pickletools.genops(plain) if "UNICODE" in step.name]
        return json.loads(texts[0])
    except (ValueError, zlib.error, IndexError) as error:
        raise DataError(f"the hidden tests cannot be read: {type(error).__name__}: {error}") from error


def verifier() -> Verifier:
    """All tests, public and hidden."""
    return CodeVerifier(limits=LIMITS)


def check() -> Check:
    """The public tests of programs that read standard input."""
    return CodeCheck(tests="public_tests", limits=LIMITS)


def build() -> Operator:
    """Eight drafts, ended early when the check passes one; else one more that reads the two best and their results."""
    return PDR(Solve, until_checked(2048, kappa=4096), check=check())
