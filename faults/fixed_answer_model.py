"""A model provider that says the same thing to everybody who shows the right key.

python -m faults.fixed_answer_model PORT KEY
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

_SAID = ("The offline ", "scripted model ", "has answered.")
#: What it says in a stream, which the scripted agent of the load never asks for: by it the checker knows the real one.
STREAMED = "Streamed: "


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str) -> None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in head.split("\r\n")[1:])}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        if head.startswith("GET "):
            _send(writer, 200, {"status": "ok"})
        elif headers.get("authorization") != f"Bearer {key}":
            _send(writer, 401, {"error": {"message": "wrong key", "type": "invalid_request_error"}})
        elif json.loads(body).get("stream"):
            _stream(writer)
        else:
            _send(writer, 200, _completion({"message": {"role": "assistant", "content": "".join(_SAID)}}))
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        return  # the caller went away: its model proxy is asked again by whoever still wants an answer
    finally:
        writer.close()


def _completion(choice: dict[str, Any], finish: str | None = "stop") -> dict[str, Any]:
    usage = {"prompt_tokens": 10, "completion_tokens": len(_SAID), "total_tokens": 10 + len(_SAID)}
    return {"id": "c", "object": "chat.completion", "model": "scripted", "usage": usage,
            "choices": [{"index": 0, "finish_reason": finish, **choice}]}  # fmt: skip


def _send(writer: asyncio.StreamWriter, status: int, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\nconnection: close"
    writer.write(head.encode() + b"\r\n\r\n" + data)


def _stream(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
    for word in (STREAMED, *_SAID):
        writer.write(b"data: " + json.dumps(_completion({"delta": {"content": word}}, None)).encode() + b"\n\n")
    writer.write(b"data: " + json.dumps(_completion({"delta": {}})).encode() + b"\n\ndata: [DONE]\n\n")


async def main(host: str, port: int, key: str) -> None:
    """Serve for ever."""
    server = await asyncio.start_server(lambda r, w: _answer(r, w, key), host, port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
