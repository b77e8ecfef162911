"""Model servers: the LM of an endpoint, local engines that serve one, and the weights for them."""

from pdr_dspy.serving.endpoint import EndpointLM, connect, discover
from pdr_dspy.serving.llamacpp import LlamaCppServer
from pdr_dspy.serving.vllm import VLLMServer
from pdr_dspy.serving.weights import CATALOGUE, Mirror, Source, Weights, locate

__all__ = [
    "CATALOGUE",
    "EndpointLM",
    "LlamaCppServer",
    "Mirror",
    "Source",
    "VLLMServer",
    "Weights",
    "connect",
    "discover",
    "locate",
]
