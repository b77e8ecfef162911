"""Everything that this library uses of DSPy beyond the names of `dspy` and `dspy.lm15`, and how it calls a model
through DSPy.

All other imports, subclasses and private attributes of DSPy are in this package (a test checks that): adapting to a new
version of DSPy means changing its files. Changes that 3.4 announces for 3.5: `forward` of an LM is no longer called
(`own_forward.py` goes), OpenAI's message dictionaries are no longer accepted (only that file sends them), and
`Adapter.format` returns a prompt object (which `prompts/render.py` passes on for a configured adapter).

The rest of the library imports the names below, from here.
"""

from dspy.clients.backend_selection import CLIENT_KEYS
from dspy.predict.parameter import Parameter
from dspy.teleprompt import Teleprompter

from pdr_dspy.calls.dspy_bridge.examples import input_names, inputs_marked
from pdr_dspy.calls.dspy_bridge.lms import Deployment, deployment, holds_to_schema, same_server
from pdr_dspy.calls.dspy_bridge.requests import Sent, call, call_sync, post, send
from pdr_dspy.calls.dspy_bridge.reuse import Sending, sending
from pdr_dspy.calls.dspy_bridge.streams import Listener, chunk_of, heard, stream_from_thread, text_of
from pdr_dspy.calls.dspy_bridge.tries import Tries, shared_seed, tries_of

__all__ = [
    "CLIENT_KEYS",
    "Deployment",
    "Listener",
    "Parameter",
    "Sending",
    "Sent",
    "Teleprompter",
    "Tries",
    "call",
    "call_sync",
    "chunk_of",
    "deployment",
    "heard",
    "holds_to_schema",
    "input_names",
    "inputs_marked",
    "post",
    "same_server",
    "send",
    "sending",
    "shared_seed",
    "stream_from_thread",
    "text_of",
    "tries_of",
]
