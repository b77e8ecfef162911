"""Every error that this library raises on purpose.

    PDRError
    ├── ConfigError (ValueError)      an argument, a schedule or a signature cannot work as given
    │   ├── WrongCall (TypeError)     a call names an argument that there is not, lacks one, or has too many
    │   ├── MissingExtra              an optional dependency is not installed; the message has the install line
    │   └── NoSandbox                 this machine cannot isolate a program that a model wrote; no program was run
    ├── DataError (ValueError)        a data set, an example or a field of an example is not usable
    ├── ServerError                   a model server failed
    │   ├── ServerStartError          a server could not be started; the message ends with the tail of its log
    │   └── EndpointError             a server does not answer, is not OpenAI-compatible, or lacks the model
    ├── WeightsError                  weights could not be found, downloaded or verified
    ├── RoundFailed                   every draft of a round failed, and none before has an answer; carries the ledger
    ├── DeadlinePassed                the session's deadline passed before the first round; carries the ledger
    ├── BudgetTooSmall (ConfigError)  not even the first stage fits the given budget
    ├── PromptTooLong (ConfigError)   prompt, kappa and caps do not fit the model's context
    ├── ArtifactError (ValueError)    a saved program is truncated, foreign, newer or tampered with
    ├── StoreError                    a run folder, store or study cannot be read or written
    ├── ExecutorError                 the processes that run rows are not there, or keep dying
    └── CallError                     one request failed; recorded on the ledger, raised only where nothing is left

Messages name the argument in code form, the value that was given, and the remedy.
"""

from __future__ import annotations


class PDRError(Exception):
    """Base of all errors raised by pdr_dspy."""


class ConfigError(PDRError, ValueError):
    """An argument, a schedule or a signature cannot work as given."""


class WrongCall(ConfigError, TypeError):
    """A call names an argument that there is not, lacks one, or has too many; the message says what was meant."""


class MissingExtra(ConfigError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f'{purpose} needs the package `{package}`: pip install "pdr-dspy[{extra}]"')
        self.package = package
        self.extra = extra


class NoSandbox(ConfigError):
    """This machine cannot isolate a program that a model wrote, so no program was run."""


class DataError(PDRError, ValueError):
    """A data set, an example or a field of an example is not usable."""


class ServerError(PDRError):
    """A model server failed."""


class ServerStartError(ServerError):
    """A model server could not be started."""


class EndpointError(ServerError):
    """A model server does not answer, is not OpenAI-compatible, or lacks the model."""


class WeightsError(PDRError):
    """Weights could not be found, downloaded or verified."""


class BudgetTooSmall(ConfigError):
    """Not even the first stage fits the given budget."""


class PromptTooLong(ConfigError):
    """A question's prompt, with kappa and the caps, does not fit the model's context."""


class ArtifactError(PDRError, ValueError):
    """A saved program is truncated, foreign, newer or tampered with."""


class StoreError(PDRError):
    """A run folder, store or study cannot be read or written."""


class ExecutorError(PDRError):
    """The processes that run rows cannot be reached, are all gone, or keep dying."""
