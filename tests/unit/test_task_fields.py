"""Optional fields of a task: what is accepted, and the message for what is not."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from pydantic import ValidationError

from ocf.events.base_model import Sealed
from ocf.events.command_payloads import Execute, Submit, TaskRequest
from ocf.events.optional_task_fields import MAX_ATTACHMENT_BYTES, check_content
from ocf.events.sealing import Keyring, generate_key
from ocf.functions.gateway.problems import explain
from ocf.functions.gateway.request_schemas import ExecuteTask
from ocf.functions.gateway.routes.tasks import _digest
from ocf.functions.gateway.sealed_secrets import seal_task

PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)
ID = "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11"
SEALED = {"kid": "0", "nonce": "", "ciphertext": ""}


def wrong(**task: Any) -> dict[str, str]:
    """The errors of a task, by field, as a caller sees them."""
    body = {"prompt": "hello", **task}
    with pytest.raises(ValidationError) as error:
        ExecuteTask.model_validate_json(json.dumps(body))
    found = [{**one, "loc": ("body", *one["loc"])} for one in error.value.errors()]
    return {one.field: one.message for one in explain(found, body)}


def attachment(media_type: str = "image/png", content: bytes = PNG, **other: Any) -> dict[str, Any]:
    return {"name": "a", "media_type": media_type, "data": base64.b64encode(content).decode(), **other}


@pytest.mark.parametrize(
    ("media_type", "content"),
    [
        ("image/png", PNG),
        ("image/jpeg", b"\xff\xd8\xff\xe0"),
        ("image/gif", b"GIF89a"),
        ("image/webp", b"RIFF\0\0\0\0WEBP"),
        ("application/pdf", b"%PDF-1.7"),
        ("text/markdown", "ä".encode()),
        ("application/json", b"{}"),
    ],
)
def test_an_attachment_is_what_its_media_type_says(media_type: str, content: bytes) -> None:
    """By its first bytes, and a text by its encoding."""
    task = TaskRequest.model_validate({"prompt": "x", "attachments": [attachment(media_type, content)]})
    assert task.attachments[0].content() == content
    with pytest.raises(ValueError, match="the content is not"):
        check_content(media_type, b"\xff\x00")


@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        (attachment(content=b"<svg/>"), "attachments.0", "the content is not image/png"),
        (attachment("image/svg+xml"), "attachments.0.media_type", "must be one of text/*"),
        (attachment(data="%%%"), "attachments.0", "data is not base64"),
        (attachment(name="../up.png"), "attachments.0.name", "pattern"),
        ({"name": "a", "media_type": "text/plain"}, "attachments.0", "needs either data, or execution_id and path"),
        ({"name": "a", "media_type": "text/plain", "path": "x"}, "attachments.0", "needs both"),
        (attachment(execution_id=ID, path="x"), "attachments.0", "needs either"),
        (
            {"name": "a", "media_type": "text/plain", "execution_id": ID, "path": "a/../../b"},
            "attachments.0.path",
            "relative path without empty, `.` or `..` parts",
        ),
    ],
)
def test_a_wrong_attachment_is_named(given: dict[str, Any], field: str, message: str) -> None:
    """With what would be right."""
    assert message in wrong(attachments=[given])[field]


def test_attachments_have_a_limit_together() -> None:
    """Each alone would fit."""
    half = attachment("text/plain", b"a" * (MAX_ATTACHMENT_BYTES // 2 + 1))
    assert f"at most {MAX_ATTACHMENT_BYTES} bytes in all" in wrong(attachments=[half, half])["attachments"]
    assert "at most 20 items" in wrong(attachments=[attachment()] * 21)["attachments"]


def deep(levels: int) -> dict[str, Any]:
    return {"type": "object", "not": deep(levels - 1)} if levels else {}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"$ref": "https://example.com/schema.json"}, "must lead to a part of this schema"),
        ({"properties": {"a": {"$dynamicRef": "other#x"}}}, "must lead to a part of this schema"),
        ({"$id": "https://example.com/"}, "$id is not allowed"),
        ({"h": {"$schema": "http://json-schema.org/draft-04/schema#"}}, "$schema is allowed at the top only"),
        (deep(30), "nested deeper than"),
        ({"enum": list(range(5000))}, "more than"),
    ],
)
def test_an_output_schema_is_bounded_and_refers_to_nothing_outside(schema: dict[str, Any], message: str) -> None:
    """Before anything reads it as a schema."""
    assert message in wrong(output_schema=schema)["output_schema"]


@pytest.mark.parametrize(
    ("server", "field", "message"),
    [
        ({"type": "local", "command": ["x"], "env": {"KEY": SEALED}}, "mcp.a.env.KEY", "use `secrets`"),
        ({"type": "local", "command": []}, "mcp.a.command", "at least 1"),
        ({"type": "remote", "url": "file:///etc/passwd"}, "mcp.a.url", "pattern"),
        (
            {"type": "remote", "url": "wss://mcp.example/"},
            "mcp.a.url",
            "WebSockets are not carried",
        ),
        ({"type": "remote", "url": "https://user:word@example.com/"}, "mcp.a.url", "must not carry credentials"),
        (
            {"type": "remote", "url": "https://e.com/", "headers": {"Host": "x"}},
            "mcp.a.headers",
            "by the connection itself",
        ),
        ({"type": "remote", "url": "https://e.com/", "headers": {"X": "a\r\nB: c"}}, "mcp.a.headers.X", "pattern"),
        ({"command": ["x"]}, "mcp.a", "type"),
    ],
)
def test_a_wrong_mcp_server_is_named(server: dict[str, Any], field: str, message: str) -> None:
    """A secret for a local server is refused with the field that is for it."""
    found = wrong(mcp={"a": server})
    assert message in found[field], found


def test_secret_headers_are_sealed_by_the_gateway_and_required_sealed_on_the_bus() -> None:
    """The digest of an idempotent call leaves them out: sealing makes each different."""
    remote = {"type": "remote", "url": "https://example.com/mcp", "headers": {"Authorization": "Bearer planted"}}
    body = ExecuteTask.model_validate({"prompt": "x", "mcp": {"a": remote}})
    sealed = seal_task(body, "default", Keyring(generate_key()))
    assert "planted" not in sealed.model_dump_json()
    assert isinstance(sealed.mcp["a"].headers["Authorization"], Sealed)  # type: ignore[union-attr]
    assert _digest(sealed) == _digest(body)
    with pytest.raises(ValidationError, match="the value of Authorization must be sealed"):
        TaskRequest.model_validate({"prompt": "x", "mcp": {"a": remote}})
    plain = {**remote, "headers": {"X-Team": "web"}}
    TaskRequest.model_validate({"prompt": "x", "mcp": {"a": plain}})


def test_secrets_are_sealed_by_the_gateway_and_left_out_of_the_digest() -> None:
    """A repeated call with the same plain secret is the same call; on the bus a plain one is refused."""
    secret = {"value": "tok-planted-0123", "url": "https://example.com/", "inject": {"header": "Authorization"}}
    body = ExecuteTask.model_validate({"prompt": "x", "secrets": {"API": secret}})
    sealed = seal_task(body, "default", Keyring(generate_key()))
    assert "planted" not in sealed.model_dump_json()
    assert "planted" not in repr(body)
    assert _digest(sealed) == _digest(body)
    with pytest.raises(ValidationError):
        TaskRequest.model_validate({"prompt": "x", "secrets": {"API": secret}})


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "a" * 65, "a b", "-a"])
@pytest.mark.parametrize("field", ["agents", "skills", "commands"])
def test_names_cannot_be_paths(field: str, name: str) -> None:
    """They become names of files and of entries in OpenCode's configuration."""
    assert any(one.startswith(field) for one in wrong(**{field: {name: {"content": "x"}}}))


def test_definitions_come_by_content_or_from_git() -> None:
    """Each by name, or a whole folder."""
    git = {"git": "https://example.com/a.git", "ref": "v1", "path": "agents"}
    for agents in ({"a": {"content": "x"}}, {"a": {"from": git}}, {"from": git}):
        task = TaskRequest.model_validate({"prompt": "x", "agents": agents})
        assert json.loads(task.model_dump_json(by_alias=True, exclude_none=True))["agents"] == agents
    assert "either content or from" in wrong(agents={"a": {"content": "x", "from": git}})["agents.a"]
    assert "relative path" in wrong(skills={"a": {"from": {**git, "path": "/etc"}}})["skills.a.from.path"]
    assert "at most" in wrong(commands={"a": {"content": "x" * 200_000}})["commands.a.content"]


def test_permissions_of_mcp_tools_need_their_server() -> None:
    """A misspelled name would allow the tool."""
    server = {"type": "local", "command": ["x"]}
    TaskRequest.model_validate(
        {"prompt": "x", "mcp": {"web": server}, "permissions": {"web_get": "deny", "web_*": "ask"}}
    )
    assert "wbe_get: not a permission" in wrong(mcp={"web": server}, permissions={"wbe_get": "deny"})["permissions"]


def test_an_older_worker_ignores_fields_that_it_does_not_know() -> None:
    """Two releases run side by side during an upgrade; the fields survive the way through submit."""
    submit = Submit.model_validate(
        {"prompt": "x", "execution_id": ID, "project_id": "default", "agent": "plan", "attachments": [attachment()]}
    )
    command = {**submit.model_dump(mode="json", by_alias=True), "submitted_at": "2026-01-01T00:00:00Z", "newer": 1}
    assert Execute.model_validate(command).attachments == submit.attachments
