"""Model proxy: an agent's only way to a model, and the only place outside the provider that uses the key."""

from ocf.functions.execute.model_proxy.budget import Call, Hooks, ModelProxyFailure
from ocf.functions.execute.model_proxy.proxy import ModelProxy
from ocf.functions.execute.model_proxy.upstream import RetryPolicy, Upstream

__all__ = ["Call", "Hooks", "ModelProxy", "ModelProxyFailure", "RetryPolicy", "Upstream"]
