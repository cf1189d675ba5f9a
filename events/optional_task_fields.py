"""Optional fields of a task: attachments, result schema, MCP servers, definitions of agents, skills and commands."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)

from ocf.events.base_model import ExecutionId, GitRef, GitUrl, Model, Sealed, Text, no_credentials, no_websocket
from ocf.events.untrusted_json import KIB, MIB, OUTPUT_SCHEMA, check_value

MAX_ATTACHMENTS = 20
#: Of one attachment and of all together. Base64 adds a third, and a command has at most 16 MiB.
MAX_ATTACHMENT_BYTES = 10 * MIB
MAX_DEFINITIONS = 50
MAX_DEFINITION_BYTES = 128 * KIB

NAME = r"^[A-Za-z0-9](-?[A-Za-z0-9_])*$"
#: A relative path without empty, `.` and `..` segments.
_PATH = r"^(?!\.{1,2}(/|$))[^/\x00\\]+(/(?!\.{1,2}(/|$))[^/\x00\\]+)*$"
_RELATIVE = re.compile(_PATH)
_ENV = r"^[A-Za-z_][A-Za-z0-9_]*$"
#: RFC 9110, 5.6.2 and 5.5: a token, and visible characters with inner blanks.
_HEADER = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"
HEADER_VALUE = r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$"
_SECRET_HEADER = re.compile(r"auth|cookie|credential|key|password|secret|token", re.IGNORECASE)
#: Headers that belong to the connection, or that the MCP transport sets itself.
_OWN_HEADERS = frozenset(
    {"accept", "accept-encoding", "connection", "content-length", "content-type", "expect", "host"}
    | {"mcp-protocol-version", "mcp-session-id", "te", "trailer", "transfer-encoding", "upgrade"}
)
#: Name of an MCP tool at OpenCode: server, `_`, tool; `*` at its end stands for any rest.
MCP_TOOL = r"[A-Za-z0-9][A-Za-z0-9_-]*_([A-Za-z0-9_-]+\*?|\*)"

DefinitionName = Annotated[str, StringConstraints(pattern=NAME, max_length=64)]


def _relative(value: str) -> str:
    if not _RELATIVE.fullmatch(value):
        raise ValueError("must be a relative path without empty, `.` or `..` parts")
    return value


RelativePath = Annotated[str, Field(max_length=1_000, json_schema_extra={"pattern": _PATH}), AfterValidator(_relative)]

#: First bytes of the binary media types.
_SIGNATURES: dict[str, tuple[bytes, ...]] = {
    "application/pdf": (b"%PDF-",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/webp": (b"RIFF",),
}
MEDIA_TYPES = ("text/*", "application/json", *_SIGNATURES)


def check_content(media_type: str, content: bytes) -> None:
    """Check that a file is what its media type says.

    Raises:
        ValueError: It is not.
    """
    signatures = _SIGNATURES.get(media_type)
    if signatures is not None:
        if not content.startswith(signatures) or (media_type == "image/webp" and content[8:12] != b"WEBP"):
            raise ValueError(f"the content is not {media_type}")
        return
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"the content is not {media_type}: it is not UTF-8") from None
    if "\x00" in text:
        raise ValueError(f"the content is not {media_type}: it has a NUL character")


def _known_media_type(value: str) -> str:
    if value not in MEDIA_TYPES and not re.fullmatch(r"text/[a-z0-9][a-z0-9.+-]{0,60}", value):
        raise ValueError(f"must be one of {', '.join(MEDIA_TYPES)}")
    return value


class Attachment(Model):
    """A file for the model: its content, or a file of the workspace that an earlier execution left."""

    name: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^/\\\x00-\x1f\x7f]+$")]
    media_type: Annotated[str, Field(max_length=70, examples=["image/png"]), AfterValidator(_known_media_type)]
    data: Annotated[str, Field(description="base64", max_length=MAX_ATTACHMENT_BYTES * 4 // 3 + 4)] | None = None
    execution_id: ExecutionId | None = None
    path: RelativePath | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Attachment:
        if (self.data is None) == (self.execution_id is None and self.path is None):
            raise ValueError("needs either data, or execution_id and path")
        if self.data is None:
            if self.execution_id is None or self.path is None:
                raise ValueError("needs both execution_id and path")
            return self
        check_content(self.media_type, self.content())
        return self

    def content(self) -> bytes:
        """Return the decoded `data`.

        Raises:
            ValueError: It is not base64.
        """
        try:
            return base64.b64decode(self.data or "", validate=True)
        except binascii.Error:
            raise ValueError("data is not base64 (RFC 4648, section 4)") from None

    @property
    def modality(self) -> str:
        """Return the kind of model input: `text`, `image` or `pdf`."""
        kind = self.media_type.partition("/")[0]
        return kind if kind == "image" else "pdf" if self.media_type == "application/pdf" else "text"


def _within_total(value: list[Attachment]) -> list[Attachment]:
    if sum(len(one.data or "") for one in value) * 3 // 4 > MAX_ATTACHMENT_BYTES:
        raise ValueError(f"at most {MAX_ATTACHMENT_BYTES} bytes in all")
    return value


Attachments = Annotated[list[Attachment], Field(max_length=MAX_ATTACHMENTS), AfterValidator(_within_total)]


def _result_schema(value: dict[str, Any]) -> dict[str, Any]:
    check_value(value, OUTPUT_SCHEMA)
    waiting: list[object] = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if one is not value and isinstance(one.get("$schema"), str):
                raise ValueError("$schema is allowed at the top only: in a part it changes what the keywords mean")
            for keyword in ("$ref", "$dynamicRef", "$recursiveRef", "$id", "id"):
                target = one.get(keyword)
                if isinstance(target, str) and keyword.endswith("ef") and not target.startswith("#"):
                    raise ValueError(f"{keyword} must lead to a part of this schema (#/…), not to {target[:100]!r}")
                if keyword == "$id" and isinstance(target, str):
                    raise ValueError("$id is not allowed: it changes where a $ref leads")
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return value


#: A JSON Schema (draft 2020-12) of the result; `submit` checks it against the draft.
OutputSchema = Annotated[dict[str, Any], AfterValidator(_result_schema)]


def _not_sealed(value: object) -> object:
    if isinstance(value, dict):
        raise ValueError("a secret in the environment of a local server could be read by the agent; use `secrets`")
    return value


class LocalMcp(Model):
    """An MCP server that runs beside the agent in its sandbox, over standard input and output."""

    # `type` distinguishes the kinds of server, so an object must have it.
    type: Literal["local"]
    command: Annotated[
        list[Annotated[Text, Field(min_length=1, max_length=4_096)]],
        Field(min_length=1, max_length=64, examples=[["npx", "-y", "@modelcontextprotocol/server-everything"]]),
    ]
    env: Annotated[
        dict[
            Annotated[str, StringConstraints(pattern=_ENV, max_length=200)],
            Annotated[Text, Field(max_length=8_000), BeforeValidator(_not_sealed)],
        ],
        Field(max_length=50, json_schema_extra={"additionalProperties": False}),
    ] = {}


HeaderValue = Annotated[str, StringConstraints(pattern=HEADER_VALUE, max_length=8_000)]
Headers = Annotated[
    dict[Annotated[str, StringConstraints(pattern=_HEADER, max_length=100)], HeaderValue | Sealed],
    Field(max_length=20, json_schema_extra={"additionalProperties": False}),
]


class RemoteMcp(Model):
    """An MCP server at a URL (Streamable HTTP). `headers` are added outside the agent's reach."""

    type: Literal["remote"]
    url: Annotated[
        str,
        Field(
            pattern=r"^https?://[^\s#]+$",
            max_length=2_000,
            json_schema_extra={"pattern": r"^https?://(?![^/?#]*@)[^\s#]+$"},
        ),
        AfterValidator(no_credentials),
        BeforeValidator(no_websocket),
    ]
    headers: Headers = {}

    @field_validator("headers")
    @classmethod
    def _sealed_secrets(cls, value: dict[str, Sealed | str]) -> dict[str, Sealed | str]:
        for name, text in value.items():
            if name.lower() in _OWN_HEADERS:
                raise ValueError(f"{name} is set by the connection itself")
            if isinstance(text, str) and not cls._may_be_plain(name):
                raise ValueError(f"the value of {name} must be sealed")
        return value

    @classmethod
    def _may_be_plain(cls, name: str) -> bool:
        return _SECRET_HEADER.search(name) is None


McpServer = Annotated[LocalMcp | RemoteMcp, Field(discriminator="type")]
McpName = Annotated[str, StringConstraints(pattern=NAME, max_length=32)]


class GitDefinitions(Model):
    """A path in a public git repository."""

    git: Annotated[GitUrl, Field(examples=["https://example.com/team/agents.git"])]
    ref: GitRef | None = None
    path: RelativePath | None = None


class Definition(Model):
    """An agent, skill or command in Markdown with front matter, or its path in a repository."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["content"]}, {"required": ["from"]}]})

    content: Annotated[Text, Field(min_length=1, max_length=MAX_DEFINITION_BYTES)] | None = None
    source: GitDefinitions | None = Field(default=None, alias="from")

    @model_validator(mode="after")
    def _one_source(self) -> Definition:
        if (self.content is None) == (self.source is None):
            raise ValueError("needs either content or from")
        return self


class DefinitionFolder(Model):
    """All definitions of a folder in a git repository."""

    source: GitDefinitions = Field(alias="from")


class Rerun(Model):
    """Run an ended execution again: the model's answers come from its recording, its other fields from its task."""

    of: ExecutionId
    until: Annotated[int, Field(ge=0, le=10_000_000, description="last call that the recording answers")] | None = None
    then: Annotated[
        Literal["live"] | None,
        Field(description="go on with the model after the last call; otherwise the execution ends there"),
    ] = None
    on_divergence: Annotated[
        Literal["nearest", "fail", "live"],
        Field(description="a request differs: report it and go on, fail, or go on with the model"),
    ] = "nearest"

    @property
    def live(self) -> bool:
        """Return whether the model may be called."""
        return self.then == "live" or self.on_divergence == "live"


class ResolvedRerun(Rerun):
    """A rerun as `submit` hands it on: `left_out` names what of the task a rerun does not get."""

    left_out: list[str] = []


def _kind(value: object) -> str:
    whole = isinstance(value, DefinitionFolder) or (isinstance(value, dict) and set(value) == {"from"})
    return "from" if whole else "named"


Definitions = Annotated[
    Annotated[dict[DefinitionName, Definition], Field(max_length=MAX_DEFINITIONS), Tag("named")]
    | Annotated[DefinitionFolder, Tag("from")],
    Discriminator(_kind),
]
