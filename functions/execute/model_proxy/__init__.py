"""The model broker: the only way from an agent to a model, and the only place outside it that a key is used."""

from ocf.functions.execute.model_proxy.budget import BrokerFailure, Call, Hooks
from ocf.functions.execute.model_proxy.proxy import Broker
from ocf.functions.execute.model_proxy.upstream import RetryPolicy, Upstream

__all__ = ["Broker", "BrokerFailure", "Call", "Hooks", "RetryPolicy", "Upstream"]
