"""Base of all payloads: strict models and the field types that they share."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from ocf.events.subjects import PROJECT_PATTERN
from ocf.events.untrusted_json import FREE_VALUE, check_value

_UUID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"

ProjectId = Annotated[str, StringConstraints(pattern=PROJECT_PATTERN), Field(examples=["default"])]
ExecutionId = Annotated[
    str,
    StringConstraints(pattern=_UUID),
    Field(description="lower-case UUID", examples=["0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11"]),
]
SessionId = Annotated[str, StringConstraints(pattern=_UUID), Field(description="lower-case UUID")]


def _no_nul(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain a NUL character")
    return value


_USERINFO = re.compile(r"^[^:/?#]*://[^/?#]*@")


def no_credentials(value: str) -> str:
    """Refuse a URL with a user and password; they would be stored in the clear."""
    # The user of an ssh address (`git@`) is not a credential.
    if _USERINFO.match(value) and not re.match(r"^ssh://[^/?#:@]*@", value, re.IGNORECASE):
        raise ValueError("must not carry credentials: leave `user:password@` out, use the field `token` or `api_key`")
    return value


def no_websocket(value: object) -> object:
    """Refuse the URL of a WebSocket, by what to do instead: a secret in its frames could not be redacted."""
    if isinstance(value, str) and value.lower().startswith(("ws://", "wss://")):
        raise ValueError(
            "must be http(s): WebSockets are not carried; use the server's HTTP API, or reach it without a "
            "secret by network.allow"
        )
    return value


#: A repository without credentials, and a branch, tag or commit of it. The pattern shows the rule in the JSON Schema.
GitUrl = Annotated[
    str,
    Field(min_length=1, max_length=2_000, json_schema_extra={"pattern": r"^(?![^:/?#]*://[^/?#]*@)"}),
    AfterValidator(no_credentials),
]
GitRef = Annotated[str, Field(min_length=1, max_length=250, pattern=r"^[^-\s][^\s]*$")]

#: Text without NUL. The pattern is for the JSON Schema, which does not show Python validators.
Text = Annotated[str, Field(json_schema_extra={"pattern": "^[^\\u0000]*$"}), AfterValidator(_no_nul)]


def _within_limits(value: dict[str, Any]) -> dict[str, Any]:
    check_value(value, FREE_VALUE)
    return value


#: An object of the caller, forwarded unchanged.
FreeObject = Annotated[dict[str, Any], AfterValidator(_within_limits)]


class Model(BaseModel):
    """Base of all payloads: frozen, no unknown fields, accepts aliases and field names."""

    # Pydantic reserves the prefix `model_`; the contract's field `model_config` therefore needs an alias.
    # Errors do not quote the input: it may be a prompt, and error texts reach the logs.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )


class ForwardCompatible(Model):
    """Base of the data that functions write for each other: records, facts and output.

    The writer may be a newer release: unknown fields are accepted, and preserved when the data is rewritten.
    """

    model_config = ConfigDict(extra="allow")

    @classmethod
    def read(cls, raw: bytes | str) -> Self:
        """Parse JSON and accept unknown fields at every depth. Raises ValidationError."""
        return cls.model_validate_json(raw, extra="allow")


#: What stands for a sealed secret that was taken out: of its form, and no secret.
REMOVED = {"alg": "A256GCM", "kid": "removed", "nonce": "AAAAAAAAAAAAAAAA", "ciphertext": ""}


class Sealed(Model):
    """A secret encrypted with AES-256-GCM (NIST SP 800-38D); the project id is its associated data."""

    alg: Literal["A256GCM"] = "A256GCM"
    kid: Annotated[str, Field(min_length=1, max_length=64, description="id of the key it was sealed with")]
    nonce: Annotated[str, Field(description="12 bytes, base64")]
    ciphertext: Annotated[str, Field(description="ciphertext and 16-byte tag, base64", max_length=16_384)]
