"""The model broker: the only way from an agent to a model, and the only place outside it that a key is used."""

from functions.execute.broker.account import BrokerFailure, Call, Hooks
from functions.execute.broker.core import Broker
from functions.execute.broker.upstream import RetryPolicy, Upstream

__all__ = ["Broker", "BrokerFailure", "Call", "Hooks", "RetryPolicy", "Upstream"]
