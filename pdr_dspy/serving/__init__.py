"""Model servers: the LM of an endpoint, local engines that serve one, and the weights for them."""

from pdr_dspy.serving.endpoint import EndpointLM, connect, discover

__all__ = ["EndpointLM", "connect", "discover"]
