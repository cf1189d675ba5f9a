"""Secret routes: loopback URLs that reach one origin with a secret header that the agent never sees."""

from ocf.functions.execute.secret_routes.route_rules import METHODS, InvalidSecret, Route, injected
from ocf.functions.execute.secret_routes.routes import SecretRoutes

__all__ = ["METHODS", "InvalidSecret", "Route", "SecretRoutes", "injected"]
