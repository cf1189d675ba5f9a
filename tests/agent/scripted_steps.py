"""What a scripted turn can do: each step of a scenario is an object with one of these names."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import urllib.request

    from scripted_session import Session

_calls = itertools.count(1)
Error = dict[str, Any]


def now() -> int:
    return int(time.time() * 1000)


async def play(session: Session, steps: list[dict[str, Any]]) -> Error | None:
    """Every step in turn; the error that ended the turn, if one did."""
    await _models_listed()
    for step in steps:
        name = next(key for key in step if key in STEPS)
        for _ in range(step.get("times", 1)):
            error = await STEPS[name](session, step[name], step)
            if error:
                return error
    return None


async def _models_listed() -> None:
    """Ask the model proxy for its models, as an agent asks it before it works: it answers once the input is packed."""
    config = json.loads(os.environ.get("OPENCODE_CONFIG_CONTENT", "{}"))
    provider = config.get("provider", {}).get(config.get("model", "").partition("/")[0])
    if provider is None:
        return
    address, _, path = provider["options"]["baseURL"].removeprefix("http://").partition("/")
    host, _, port = address.partition(":")
    head = (
        f"GET /{path}/models HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {provider['options']['apiKey']}\r\n"
    )
    with suppress(OSError):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"{head}connection: close\r\n\r\n".encode())
        await reader.read()
        writer.close()


async def _sleep(step: dict[str, Any]) -> None:
    await asyncio.sleep(step.get("delay", 0))


async def said(session: Session, value: str, step: dict[str, Any], kind: str = "text") -> None:
    start = {"start": now()}
    part = session.put_part({"type": kind, "text": "", "time": dict(start)})
    size = step.get("chunk", 20)
    for at in range(0, len(value), size):
        delta = {"messageID": part["messageID"], "partID": part["id"], "field": "text", "delta": value[at : at + size]}
        session.emit("message.part.delta", **delta)
        await _sleep(step)
    session.put_part({**part, "text": value.rstrip(), "time": {**start, "end": now()}})


async def reasoning(session: Session, value: str, step: dict[str, Any]) -> None:
    await said(session, value, step, "reasoning")


class Tool:
    """A tool part in its states."""

    def __init__(self, session: Session, tool: str, call: dict[str, Any]) -> None:
        self._session, self._input, self._start = session, call, now()
        state = {"status": "pending", "input": {}, "raw": ""}
        self._part = session.put_part({"type": "tool", "tool": tool, "callID": f"call_{next(_calls)}", "state": state})

    def running(self, output: str | None = None) -> None:
        state: dict[str, Any] = {"status": "running", "input": self._input, "time": {"start": self._start}}
        if output is not None:
            state["metadata"] = {"output": window(output)}
        self._session.put_part({**self._part, "state": state})

    def completed(self, result: str, title: str, **metadata: Any) -> None:
        time = {"start": self._start, "end": now()}
        state = {"status": "completed", "input": self._input, "output": result, "title": title, "time": time}
        self._session.put_part({**self._part, "state": {**state, "metadata": {"truncated": False, **metadata}}})

    def error(self, message: str) -> None:
        time = {"start": self._start, "end": now()}
        state = {"status": "error", "input": self._input, "error": message, "time": time}
        self._session.put_part({**self._part, "state": state})


def window(output: str) -> str:
    """OpenCode keeps the last 30,000 characters."""
    return output if len(output) <= 30_000 else "...\n\n" + output[-30_000:]


async def shell(session: Session, value: dict[str, Any], step: dict[str, Any]) -> None:
    """A made-up shell: {command, output: [pieces], exit}."""
    tool, output = Tool(session, "bash", {"command": value["command"]}), ""
    tool.running("")
    for piece in value.get("output", []):
        await _sleep(step)
        output += piece
        tool.running(output)
    tool.completed(window(output) or "(no output)", value["command"], output=window(output), exit=value.get("exit", 0))


async def run(session: Session, command: str, step: dict[str, Any]) -> None:
    """A real shell command in the workspace, output as it comes."""
    tool, output = Tool(session, "bash", {"command": command}), ""
    tool.running("")
    process = await asyncio.create_subprocess_shell(
        command, cwd=session.directory, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None
    while data := await process.stdout.read(65536):
        output = (output + data.decode(errors="replace"))[-60_000:]
        tool.running(output)
    code = await process.wait()
    tool.completed(window(output) or "(no output)", command, output=window(output), exit=code)


async def write(session: Session, value: dict[str, str], step: dict[str, Any]) -> None:
    """A file in the workspace: {path, content}."""
    path = os.path.join(session.directory, value["path"])
    tool = Tool(session, "write", {"filePath": path, "content": value["content"]})
    tool.running()
    exists = os.path.exists(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(value["content"])
    session.emit("file.edited", file=path)
    tool.completed("Wrote file successfully.", value["path"], filepath=path, exists=exists)


async def todo(session: Session, items: list[dict[str, str]], step: dict[str, Any]) -> None:
    session.todos = [{"priority": "medium", **item} for item in items]
    session.emit("todo.updated", todos=session.todos)


async def usage(session: Session, value: dict[str, Any], step: dict[str, Any]) -> None:
    """A finished model call: {input, output, cost}."""
    cache = {"read": value.get("cache_read", 0), "write": value.get("cache_write", 0)}
    tokens = {"input": value.get("input", 0), "output": value.get("output", 0), "reasoning": 0, "cache": cache}
    session.put_part({"type": "step-finish", "reason": "stop", "tokens": tokens, "cost": value.get("cost", 0)})


async def permission(session: Session, value: dict[str, Any], step: dict[str, Any]) -> Error | None:
    """A tool call that needs a permission: {permission, patterns}; rules of the session decide first."""
    pattern = value.get("patterns", ["*"])[0]
    tool = Tool(session, value["permission"], {"command": pattern})
    tool.running()
    action = session.action(value["permission"], pattern)
    if action == "ask":
        request = {"permission": value["permission"], "patterns": [pattern], "always": []}
        request["metadata"] = {"command": pattern}
        action = "deny" if await session.server.ask("permission", session, request) == "reject" else "allow"
    if action == "deny":
        tool.error("The user rejected permission to use this tool.")
    else:
        tool.completed("done", pattern, output="done\n", exit=0)
    return None


async def recall(session: Session, value: str, step: dict[str, Any]) -> None:
    """Every prompt of the conversation so far, this one included: what the model would be sent."""
    await said(session, value + " | ".join(session.said("user")), step)


async def question(session: Session, value: dict[str, Any], step: dict[str, Any]) -> None:
    """{question, options: [label]}; the answer is said as text."""
    options = [{"label": label, "description": label} for label in value.get("options", [])]
    asked = [{"question": value["question"], "header": value["question"][:30], "options": options}]
    answers = await session.server.ask("question", session, {"questions": asked})
    await said(session, f"You said {answers[0][0] if answers else 'nothing'}.", {})


def answered(request: urllib.request.Request) -> dict[str, Any]:
    """A provider's answer; of a stream its texts, piece by piece."""
    import urllib.request

    with urllib.request.urlopen(request, timeout=60) as answer:
        if not answer.headers["content-type"].startswith("text/event-stream"):
            return dict(json.load(answer))
        events = [json.loads(line[5:]) for line in answer if line.startswith(b"data: {")]
    return {"deltas": [text for event in events if (text := event["choices"][0]["delta"].get("content"))]}


async def model(session: Session, value: dict[str, Any], step: dict[str, Any]) -> Error | None:
    """A real model call through the configured provider, its text said: {prompt, stream}."""
    # Here: they cost a third of the start, and most scripts call no model.
    import urllib.error
    import urllib.request

    config = json.loads(os.environ["OPENCODE_CONFIG_CONTENT"])
    name, _, model_id = config["model"].partition("/")
    options = config["provider"][name]["options"]
    body = {"model": model_id, "messages": [{"role": "user", "content": value.get("prompt", "hello")}]}
    body |= {"stream": True} if value.get("stream") else {}
    request = urllib.request.Request(
        f"{options['baseURL']}/chat/completions",
        json.dumps(body).encode(),
        {"authorization": f"Bearer {options['apiKey']}", "content-type": "application/json"},
    )
    try:
        answer = await asyncio.to_thread(answered, request)
    except urllib.error.HTTPError as error:
        return {"name": "APIError", "data": {"message": str(error), "statusCode": error.code, "isRetryable": False}}
    except OSError as error:
        return {"name": "APIError", "data": {"message": str(error), "isRetryable": True}}
    used = answer.get("usage") or {}
    if "deltas" in answer:
        await said(session, "".join(answer["deltas"]), {"chunk": len(answer["deltas"][0])})
    else:
        await said(session, answer["choices"][0]["message"]["content"], {})
    await usage(session, {"input": used.get("prompt_tokens", 0), "output": used.get("completion_tokens", 0)}, {})
    return None


async def sleep(session: Session, seconds: float, step: dict[str, Any]) -> None:
    """Nothing at all: no event, no answer missing."""
    await asyncio.sleep(seconds)


async def error(session: Session, value: Error, step: dict[str, Any]) -> Error:
    """The turn ends with OpenCode's error object: {name, data}."""
    return value


async def retry(session: Session, value: dict[str, Any], step: dict[str, Any]) -> None:
    session.set_status(type="retry", attempt=value["attempt"], message=value["message"], next=now() + 1000)


async def die(session: Session, code: int, step: dict[str, Any]) -> None:
    """The process ends in mid-turn; -9 kills it."""
    sys.stderr.write("scripted agent: dying now\n")
    sys.stderr.flush()
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)


async def close_stream(session: Session, how: str, step: dict[str, Any]) -> None:
    """`once`: every event stream breaks; `for-good`: and none can be opened again."""
    session.server.refuse_streams = how == "for-good"
    session.server.close_streams()


async def deaf(session: Session, value: bool, step: dict[str, Any]) -> None:
    """The server takes requests and never answers them; its streams stay open and silent."""
    session.server.deaf = value
    await asyncio.Event().wait()


async def daemons(session: Session, value: dict[str, Any], step: dict[str, Any]) -> None:
    """{count, seconds}: that many processes that daemonise (setsid, double fork) and ignore SIGTERM."""
    for _ in range(value["count"]):
        child = os.fork()
        if child == 0:
            os.setsid()
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(value["seconds"])
            os._exit(0)
        os.waitpid(child, 0)


async def flood(session: Session, value: dict[str, Any], step: dict[str, Any]) -> None:
    """{bytes, line?}: text as fast as it goes."""
    line = value.get("line", "x" * 1023 + "\n")
    part = session.put_part({"type": "text", "text": "", "time": {"start": now()}})
    for _ in range(value["bytes"] // len(line)):
        delta = {"messageID": part["messageID"], "partID": part["id"], "field": "text", "delta": line}
        session.emit("message.part.delta", **delta)
        await asyncio.sleep(0)


async def memory(session: Session, value: dict[str, Any], step: dict[str, Any]) -> None:
    """{bytes, seconds}: take memory and hold it."""
    held = bytearray(value["bytes"])
    for at in range(0, len(held), 4096):
        held[at] = 1
    await asyncio.sleep(value.get("seconds", 0))


async def stderr(session: Session, text: str, step: dict[str, Any]) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


async def finish(session: Session, value: str, step: dict[str, Any]) -> None:
    session.messages[session.message]["info"]["finish"] = value


async def event(session: Session, value: dict[str, Any], step: dict[str, Any]) -> None:
    session.server.emit(value["type"], value.get("properties", {}))


STEPS: dict[str, Callable[..., Awaitable[Error | None]]] = {
    "text": said,
    "reasoning": reasoning,
    "shell": shell,
    "run": run,
    "write": write,
    "todo": todo,
    "usage": usage,
    "permission": permission,
    "question": question,
    "recall": recall,
    "model": model,
    "sleep": sleep,
    "error": error,
    "retry": retry,
    "die": die,
    "close_stream": close_stream,
    "deaf": deaf,
    "daemons": daemons,
    "flood": flood,
    "memory": memory,
    "stderr": stderr,
    "finish": finish,
    "event": event,
}
