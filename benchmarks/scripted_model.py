"""A scripted OpenAI-compatible model that notes when it got each request and when it wrote each word.

The last user message is the script: `WORDS: n ms` streams n words, one each ms; `SH: command //` before it makes a
shell call first, `TIMES: k` k of them in a row; `RUN: id` names the run. It knows the names of several agents' shell
tools, so that the same script runs on each.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.offline import OPENCODE

_SHELLS = ("bash", "terminal")
_USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


class ScriptedModel:
    """The running model; `with ScriptedModel() as model: model.base_url`.

    Attributes:
        requests: of each run, the times (seconds since 1970) of its requests that offer tools.
        written: of each run, the time at which each word was written.
        finished: of each run, the time at which its last answer had been written.
        other: the times of requests without tools (titles, summaries).
    """

    def __init__(self) -> None:
        self.requests: dict[str, list[float]] = {}
        self.written: dict[str, list[float]] = {}
        self.finished: dict[str, float] = {}
        self.other: list[float] = []
        model = self

        class Handler(BaseHTTPRequestHandler):
            """Answers each call with the script's next step."""

            def log_message(self, *_: object) -> None:
                """Write no access log."""

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                stream = bool(request.get("stream"))
                self.send_header("content-type", "text/event-stream" if stream else "application/json")
                self.end_headers()
                if not stream:
                    self.wfile.write(json.dumps(_whole(model.answer(request))).encode())
                    return
                for delta, end in model.answer(request):
                    self._write(_chunk(delta, end))
                self._write({**_chunk({}, None), "choices": [], "usage": _USAGE})
                self.wfile.write(b"data: [DONE]\n\n")

            def _write(self, event: dict[str, Any]) -> None:
                self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
                self.wfile.flush()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> ScriptedModel:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self) -> dict[str, str]:
        """Return the variables that make a stack run the real OpenCode on this model, with a warm server."""
        return {
            "OPENCODE_BIN": str(OPENCODE),
            "OCF_MODEL": "openai/m1",
            "OCF_MODEL_ENDPOINT": self.base_url,
            "WARM_SLOTS": "1",
        }

    def answer(self, request: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str | None]]:
        """Yield the deltas of one answer, each with the finish reason."""
        if not request.get("tools"):
            self.other.append(time.time())
            yield {"content": "title"}, None
            yield {}, "stop"
            return
        prompt, results = _script(request["messages"])
        run = _find(r"RUN: (\S+)", prompt, "")
        self.requests.setdefault(run, []).append(time.time())
        command, times = _find(r"SH: (.*?) //", prompt, ""), int(_find(r"TIMES: (\d+)", prompt, "1"))
        if command and results < times:
            yield {"tool_calls": [_call(request["tools"], command, f"{run}-{results}")]}, None
            yield {}, "tool_calls"
            return
        words = re.search(r"WORDS: (\d+) (\d+)", prompt)
        count, pause = (int(words[1]), int(words[2]) / 1000) if words else (1, 0.0)
        written = self.written.setdefault(run, [])
        for number in range(count):
            written.append(time.time())
            yield {"content": f"word{number} "}, None
            time.sleep(pause)
        self.finished[run] = time.time()
        yield {}, "stop"


def _find(pattern: str, text: str, otherwise: str) -> str:
    found = re.search(pattern, text, re.DOTALL)
    return found[1] if found else otherwise


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def _script(messages: list[dict[str, Any]]) -> tuple[str, int]:
    """Return the last user message that is a script, and the number of tool results after it."""
    at = max((i for i, one in enumerate(messages) if one["role"] == "user" and "WORDS:" in _text(one)), default=0)
    return _text(messages[at]), sum(one["role"] == "tool" for one in messages[at:])


def _call(tools: list[dict[str, Any]], command: str, key: str) -> dict[str, Any]:
    names = [tool["function"]["name"] for tool in tools]
    name = next(shell for shell in _SHELLS if shell in names)
    arguments = {"command": command, **({"description": "run"} if name == "bash" else {})}
    return {
        "index": 0,
        "id": f"call_{key}",
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments)},
    }


def _chunk(delta: dict[str, Any], end: str | None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": end}
    return {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m1", "choices": [choice]}


def _whole(answer: Iterator[tuple[dict[str, Any], str | None]]) -> dict[str, Any]:
    deltas = list(answer)
    message: dict[str, Any] = {"role": "assistant", "content": "".join(one.get("content", "") for one, _ in deltas)}
    if calls := [call for one, _ in deltas for call in one.get("tool_calls", ())]:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "finish_reason": deltas[-1][1]}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m1", "choices": [choice], "usage": _USAGE}
