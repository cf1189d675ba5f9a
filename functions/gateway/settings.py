"""Settings of the gateway, apart from the process's other settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from ocf.events.errors import DeadLetter
from ocf.events.untrusted_json import INBOX, MIB
from ocf.functions.core.address_rules import is_loopback
from ocf.functions.models.catalog import ModelFacts
from ocf.functions.models.custom_model_facts import operators_facts
from ocf.functions.settings.settings import Settings


class UnsafeBind(DeadLetter):
    """An unauthenticated gateway may listen on loopback only."""


@dataclass(frozen=True)
class GatewaySettings:
    """Times in seconds, sizes in bytes. Without secret and JWKS URL every client on loopback may do everything."""

    default_project: str = "default"
    jwt_secret: SecretStr | None = None
    jwks_url: str | None = None
    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    cors_origins: tuple[str, ...] = ()
    #: Requests per second and caller; 0 is no limit. `burst` is the number allowed at once.
    rate_limit: int = 0
    burst: int = 0
    #: Largest request body. The largest event is 16 MiB; the rest is room for JSON around it.
    max_body: int = 17 * 1024 * 1024
    #: Bytes of bodies in memory, per caller and in all (a call needs its body a few times over), and seconds for one
    #: body.
    caller_bodies: int = 3 * 17 * 1024 * 1024
    all_bodies: int = 8 * 17 * 1024 * 1024
    #: The same for unsigned bodies, of one hook and of all hooks.
    hook_bodies: int = 8 * INBOX.bytes
    all_hook_bodies: int = 32 * INBOX.bytes
    body_seconds: float = 120.0
    console_dir: Path | None = None
    nats_ws_url: str | None = None
    #: The embedded stack's scripted model is the default model: clients must show that.
    offline_model: bool = False
    #: The operator's own models.
    models: tuple[ModelFacts, ...] = ()
    #: Id of this start of the embedded stack; the command line compares it with the stack's state file.
    instance: str | None = None
    viewer_ttl: int = 900
    #: `WS /tasks/{id}/stream`: seconds of silence before a heartbeat, and for which one send may block.
    heartbeat: float = 15.0
    slow_reader: float = 10.0
    #: Chunks and their bytes that are buffered for a slow reader; others are read from the stream again.
    backlog: int = 2_000
    backlog_bytes: int = 4 * MIB

    @property
    def authenticated(self) -> bool:
        """Return whether callers need a token."""
        return self.jwt_secret is not None or self.jwks_url is not None

    @classmethod
    def of(cls, settings: Settings) -> GatewaySettings:
        """Return the gateway's part of the process's settings.

        Raises:
            BadModelsFile: OCF_MODELS_FILE is not usable.
        """
        return cls(
            default_project=settings.project_id,
            jwt_secret=settings.gateway_jwt_secret,
            jwks_url=settings.gateway_jwks_url,
            jwt_issuer=settings.gateway_jwt_issuer,
            jwt_audience=settings.gateway_jwt_audience,
            cors_origins=settings.cors_origins,
            rate_limit=settings.rate_limit,
            console_dir=settings.console_dir,
            nats_ws_url=settings.nats_ws_url,
            offline_model=settings.offline_endpoint is not None,
            models=operators_facts(settings.models_file),
            instance=settings.instance,
        )


def check_bind(host: str, settings: GatewaySettings) -> None:
    """Refuse to offer an unauthenticated gateway to a network.

    Raises:
        UnsafeBind: no key is configured and `host` is not loopback; the message is one line for the operator.
    """
    if not settings.authenticated and not is_loopback(host):
        raise UnsafeBind(
            f"HOST={host}: without GATEWAY_JWT_SECRET or GATEWAY_JWKS_URL the gateway listens on loopback only "
            "(set one of them, or HOST=127.0.0.1)"
        )
    if settings.jwt_secret is not None and len(settings.jwt_secret.get_secret_value().encode()) < 32:
        raise UnsafeBind("GATEWAY_JWT_SECRET: HS256 needs a secret of at least 32 bytes (RFC 7518, 3.2)")
