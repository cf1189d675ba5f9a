"""The AsyncAPI document of the events, from the tables of event types and streams."""

from __future__ import annotations

import re
from typing import Any

import yaml

from ocf.events import streams
from ocf.events.event_types import TYPES, EventType

EXTENSIONS = {
    "traceparent": "W3C trace context",
    "tracestate": "W3C trace context",
    "correlationid": "execution or session of the event",
    "causationid": "id of the event that caused this one",
    "partitionkey": "execution or session: events with one key stay in order",
    "sequence": "gapless per execution from 1 (output only)",
    "expirytime": "RFC 3339; a submit that is handled later is rejected",
    "dataref": "location of data over 512 KiB",
}
SECURITY = {
    "backend": {
        "type": "userPassword",
        "description": "A NATS credentials file: user JWT, and an NKey seed that signs the server's nonce. "
        "`nats_creds` of `ocf up --json` publishes commands and reads every project; `ocf creds --project NAME` "
        "subscribes to one.",
    },
    "viewer": {
        "type": "userPassword",
        "description": "User JWT and seed of `POST /tasks/{execution_id}/token`: short-lived, subscribes to `ocf.live` "
        "of one execution.",
    },
}


def pages() -> dict[str, str]:
    """Return AsyncAPI 3: a channel per subject, a message per event type."""
    channels: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for name, spec in TYPES.items():
        key = name.removeprefix("dev.ocf.").removesuffix(".v1").replace(".", "_")
        messages[key] = _message(name, spec)
        channel = re.sub(r"[^a-z0-9]+", "_", spec.subject_template).strip("_")
        entry = channels.setdefault(channel, _channel(spec))
        entry["messages"][key] = {"$ref": f"#/components/messages/{key}"}
        operations[key] = {
            "action": "receive" if spec.kind == "cmd" else "send",
            "channel": {"$ref": f"#/channels/{channel}"},
            "messages": [{"$ref": f"#/channels/{channel}/messages/{key}"}],
            "summary": _doc(spec.data),
        }
    live = {
        "address": "ocf.live.{project}.{execution}",
        "messages": dict(channels["ocf_out_project_execution"]["messages"]),
    }
    channels["ocf_live"] = live | {
        "description": "Output while the agent works (core NATS, republished by OCF_OUTPUT). Viewers subscribe to it.",
        "parameters": {"project": {}, "execution": {}},
    }
    document = {
        "asyncapi": "3.1.0",
        "info": {
            "title": "OpenCode executions as event-driven functions",
            "version": "1.0.0",
            "description": "CloudEvents 1.0 over NATS JetStream (NATS binding 1.0.2). Read: structured, with or "
            "without a Content-Type header, and binary. Written: binary, with Content-Type and ce-datacontenttype.",
        },
        "defaultContentType": "application/json",
        "servers": _servers(),
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "securitySchemes": SECURITY},
    }
    return {"schemas/asyncapi.yaml": yaml.safe_dump(document, sort_keys=False, width=120)}


def _channel(spec: EventType) -> dict[str, Any]:
    stream = next(s for s in streams.STREAMS if s.name == spec.stream)
    return {
        "address": spec.subject_template,
        "description": f"Kept in {stream.name}: {stream.description}.",
        "parameters": {"project": {}, spec.entity: {}},
        "messages": {},
    }


def _message(name: str, spec: EventType) -> dict[str, Any]:
    return {
        "name": name,
        "summary": _doc(spec.data),
        "contentType": "application/json",
        "headers": _headers(name, spec),
        "payload": {
            "schemaFormat": "application/schema+json;version=draft-2020-12",
            "schema": {"$ref": f"./{name}.json"},
        },
    }


def _headers(name: str, spec: EventType) -> dict[str, Any]:
    """Return the headers of binary mode. A structured message has all of it in its JSON instead."""
    text = {"type": "string", "minLength": 1}
    required = {
        "ce-specversion": {"const": "1.0"},
        "ce-id": {**text, "description": "unique together with the source"},
        "ce-source": {**text, "format": "uri-reference"},
        "ce-type": {"const": name},
        "ce-subject": {**text, "description": f"id of the {spec.entity}"},
        "ce-time": {**text, "format": "date-time"},
        "ce-datacontenttype": {"const": "application/json"},
    }
    extensions = {f"ce-{key}": {"type": "string", "description": why} for key, why in EXTENSIONS.items()}
    numbered = ["ce-sequence"] if spec.kind == "out" else []
    return {"type": "object", "required": [*required, *numbered], "properties": required | extensions}


def _servers() -> dict[str, Any]:
    """Return the two ways to the bus, and who may use them."""
    return {
        "nats": {
            "host": "nats:4222",
            "protocol": "nats",
            "description": "TCP. `nats` of `ocf up --json`; the Service `nats` in a cluster.",
            "security": [{"$ref": "#/components/securitySchemes/backend"}],
        },
        "websocket": {
            "host": "nats:9222",
            "protocol": "ws",
            "description": "NATS over WebSocket, for pages; `wss` outside a cluster. `nats_ws` of `ocf up --json` "
            "and of a viewer's token.",
            "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in ("viewer", "backend")],
        },
    }


def _doc(model: type) -> str:
    return " ".join((model.__doc__ or "").split())
