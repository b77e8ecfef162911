"""Operator-consistent training (arXiv 2510.01123) on TRL: a model learns on long traces and on PDR rounds alike.

    dataset.py      questions as rows of a data set, once for every mode
    types.py        the records that rollout and trainer exchange
    policy_lm.py    the trained model as a DSPy model, with the calls of all episodes in one batch
    rollout.py      episodes: the library's programs, run on the policy
    rewards.py      verifiers as rewards
    objective.py    J_CISPO + alpha J_SFT as weights of rows
    sampler.py      batches with an exact share of each mode
    generation.py   transformers or vLLM behind the policy, on one or several processes
    config.py       the settings of a run
    trl_config.py   the settings of the trainer, on top of TRL's
    trainer.py      TRL's GRPO trainer with this rollout and objective; the only file that overrides TRL
    run_folder.py   the folder of a run: lock, identity, log, checkpoints
    model_folder.py the model of a run: loaded, adapted, saved
    train.py        a training run: from a program to a model folder
    replay.py       an evaluated run once more, to render the prompts of its calls
    export_sft.py   the right calls of an evaluation, as a chat data set
    hindsight.py    turns made with the gold answer in view, likewise
    export_picks.py     which drafts a distiller should have picked
    export_verdicts.py  what a judge should have said of them
    sft.py          supervised training on such a data set
    export_verl.py  the same episodes as an agent loop of verl

`train.train` and `sft.imitate` are the entry points; they name a missing extra. Only `pdr train` and `pdr export-sft`
import this package, when they run.
"""
