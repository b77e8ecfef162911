"""Model calls and their cost. `predict` runs the calls of a predictor concurrently; `site` locates a call within a
program. `dispatch` replays calls from the `store`, joins equal requests, sends the rest and continues truncated turns.
`early_stop` ends a stage before all its calls have finished; `valued` requests scores instead of texts. `ledger` and
`budget` count tokens, `account` limits what several programs spend together, `context` holds the state that a program's
calls share, `capabilities` describes the model behind an LM, `output_format` constrains a completion, and `dspy_bridge`
is the only module that knows how DSPy makes a call.
"""

from __future__ import annotations

from pdr_dspy.calls.account import Account
from pdr_dspy.calls.adapter import Adapter
from pdr_dspy.calls.budget import Budget
from pdr_dspy.calls.capabilities import (
    Capabilities,
    ServedModel,
    ThinkingBudget,
    capabilities,
    configured,
    count_exactly,
    identities,
)
from pdr_dspy.calls.context import Session, current, price_of, run_of, session
from pdr_dspy.calls.dispatch import count_tokens, together
from pdr_dspy.calls.failures import CallError, DeadlinePassed, RoundFailed
from pdr_dspy.calls.ledger import Call, Ledger, Phase, Usage
from pdr_dspy.calls.output_format import OUTPUT, FormatKind, OutputFormat
from pdr_dspy.calls.predict import (
    CUT_THOUGHT,
    Reply,
    ask,
    identity,
    prepare,
    reply_of,
    serving,
    tell,
)
from pdr_dspy.calls.pricing import Models, Price, Priced
from pdr_dspy.calls.request import Job, Prompt, Sampling
from pdr_dspy.calls.site import SEED_SPACING, CallSite, seed_for
from pdr_dspy.calls.store import Rollout, Rollouts, address
from pdr_dspy.calls.valued import Valued, post, weigh

__all__ = [
    "CUT_THOUGHT",
    "OUTPUT",
    "SEED_SPACING",
    "Account",
    "Adapter",
    "Budget",
    "Call",
    "CallError",
    "CallSite",
    "Capabilities",
    "DeadlinePassed",
    "FormatKind",
    "Job",
    "Ledger",
    "Models",
    "OutputFormat",
    "Phase",
    "Price",
    "Priced",
    "Prompt",
    "Reply",
    "Rollout",
    "Rollouts",
    "RoundFailed",
    "Sampling",
    "ServedModel",
    "Session",
    "ThinkingBudget",
    "Usage",
    "Valued",
    "address",
    "ask",
    "capabilities",
    "configured",
    "count_exactly",
    "count_tokens",
    "current",
    "identities",
    "identity",
    "post",
    "prepare",
    "price_of",
    "reply_of",
    "run_of",
    "seed_for",
    "serving",
    "session",
    "tell",
    "together",
    "weigh",
]
