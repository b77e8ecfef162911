"""One of two processes of test_trainer.py: gradients of both normalisations, and sampling together."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pdr_dspy.training.generation import TrainerPolicy
from pdr_dspy.training.trainer import OperatorTrainer
from pdr_dspy.training.types import Group, Policy, Row
from tests.support.training_policy import Gradients, Scripted, letters, questions, settings, tiny, uneven


def run(folder: Path, rollout: Any, *callbacks: Any, **given: Any) -> OperatorTrainer:
    trainer = OperatorTrainer(
        tiny(), rollout, settings(folder, **given), questions(), processing_class=letters(), callbacks=callbacks
    )
    trainer.train()
    return trainer


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    done: dict[str, Any] = {}
    rank = 0
    for norm in ("prompt", "batch"):
        for accumulation in (1, 2):
            case = f"{norm}-{accumulation}"
            rollout, seen = Scripted(uneven), Gradients()
            trainer = run(
                folder,
                rollout,
                seen,
                token_norm=norm,
                per_device_train_batch_size=8 // accumulation,
                gradient_accumulation_steps=accumulation,
            )
            rank = trainer.accelerator.process_index
            assert trainer.accelerator.num_processes == 2
            save_file(seen.steps[0], folder / f"{case}-{rank}.safetensors")
            entry = trainer.state.log_history[0]
            done[case] = {
                "groups": [(group.mode, group.example.number) for group in rollout.groups],
                "loss": entry["loss"],
                "operator/tokens": entry["operator/tokens"],
            }
    TrainerPolicy.collective = property(lambda _: True)  # type: ignore[assignment,method-assign]

    def uneven_calls(groups: Sequence[Group], policy: Policy) -> list[list[Row]]:
        """Three calls on the first process, one on the second, with different prompts."""
        done["calls"], done["together"] = (3, 1)[rank], True
        for call in range(done["calls"]):
            prompts = [[3 + rank, 5 + call]] * (1 + rank + call)
            drawn = policy.generate(prompts, [4] * len(prompts), 1.0)
            done["together"] &= len(drawn) == len(prompts) and all(0 < len(each.ids) <= 4 for each in drawn)
        return Scripted(uneven)(groups, policy)

    run(folder, uneven_calls)
    (folder / f"{rank}.json").write_text(json.dumps(done))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
