"""Operator-consistent training (arXiv 2510.01123) on TRL: a model learns on long traces and on PDR rounds alike.

    data.py         questions as rows of a data set, once for every mode
    rows.py         what passes between rollout and trainer
    policy.py       the trained model as a DSPy model, calls of all episodes in one batch
    episodes.py     the rollout: the library's own programs, run on the policy
    rewards.py      verifiers as rewards
    objective.py    J_CISPO + alpha J_SFT as weights of rows
    sampler.py      batches with an exact share of each mode
    generation.py   transformers or vLLM behind the policy, also where processes must generate together
    config.py       the settings, over TRL's
    trainer.py      TRL's GRPO trainer with all of it; the one file that overrides TRL
    run.py          from a program to a checkpoint
    sft.py          what an evaluation got right, as a chat data set
    verl.py         the same episodes as an agent loop of verl

`run.train` is the way in; it says which extra is missing. Nothing else of the
library imports what is here, but `pdr train` and `pdr export-sft` when they run.
"""
