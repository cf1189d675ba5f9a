"""The model broker: the only way from an agent to a model, and the only place outside it that a key is used."""

from ocf.functions.execute.model_proxy.budget import Call, Hooks, ModelProxyFailure
from ocf.functions.execute.model_proxy.proxy import ModelProxy
from ocf.functions.execute.model_proxy.upstream import RetryPolicy, Upstream

__all__ = ["Call", "Hooks", "ModelProxy", "ModelProxyFailure", "RetryPolicy", "Upstream"]
