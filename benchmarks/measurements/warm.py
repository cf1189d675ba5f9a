"""A warm run beside its peers, in turn, on one machine: first word, words on their way, end, processor time.

The peers are OpenCode's own server over its event stream, and OpenHands' agent server where `OPENHANDS` names it. The
targets that name a peer hold against OpenHands; without it those rows show OpenCode's own server and have no target.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks import peers
from benchmarks.measurement import Options, Row, Target
from benchmarks.scripted_model import ScriptedModel
from benchmarks.stack_memory import warm
from benchmarks.warm_run import Run, run
from tests.support.offline import OPENCODE
from tests.support.stack import running_stack

_WORDS, _SHELL = "40 words", "shell call"


def after_shell(one: Run) -> float:
    """Return the seconds from the end of the shell call to the next word, both at the viewer."""
    return one.first_word - one.results[-1]


async def measure(options: Options) -> list[Row]:
    """Each script on each server in turn; a first round is not kept."""
    if not OPENCODE.exists():
        raise RuntimeError("OpenCode is not installed: make install")
    ours: dict[str, list[Run]] = {_WORDS: [], _SHELL: []}
    bare: dict[str, list[Run]] = {_WORDS: [], _SHELL: []}
    peer: dict[str, list[Run]] = {_WORDS: [], _SHELL: []}
    async with AsyncExitStack() as stack:
        model = stack.enter_context(ScriptedModel())
        tops = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ocf-bench-"))) for _ in range(3)]
        up = stack.enter_context(running_stack(tops[0], **model.environment()))
        servers: list[tuple[peers.Peer, dict[str, list[Run]]]] = [
            (await stack.enter_async_context(peers.bare_server(model, tops[1])), bare)
        ]
        if peers.OPENHANDS:
            servers.append((await stack.enter_async_context(peers.openhands(model, tops[2])), peer))
        for turn in range(options.of(10) + 1):
            for script, runs in ours.items():
                await warm(up, 1, timeout=300)
                one = await run(up, model, script)
                await warm(up, 1, timeout=300)  # the next server has booted: the peers have the machine to themselves
                others = [(await server.run(script), kept[script]) for server, kept in servers]
                sys.stderr.write(f"  {script}, load {os.getloadavg()[0]:.1f}: {_short(one)}")
                for other, _ in others:
                    sys.stderr.write(f" | {_short(other)}")
                sys.stderr.write("\n")
                if turn:
                    runs.append(one)
                    for other, kept in others:
                        kept.append(other)
    return [*_against_bare(ours, bare), *_against_peer(ours, peer if peers.OPENHANDS else bare)]


def _short(one: Run) -> str:
    return f"first {one.first_word:.2f} end {one.end:.2f} tail {one.tail:.2f} messages {one.messages}"


def _against_bare(ours: dict[str, list[Run]], bare: dict[str, list[Run]]) -> list[Row]:
    name = "`opencode serve`, its event stream"
    words, theirs = ours[_WORDS], bare[_WORDS]
    return [
        Row(
            "40 words at 20 ms: messages at the client",
            "messages",
            [float(one.messages) for one in words],
            [float(one.messages) for one in theirs],
            name,
            Target("p50", 30, at_least=True),
        ),
        Row(
            "40 words at 20 ms: lag of a word",
            "ms",
            [1000 * lag for one in words for lag in one.lags],
            [1000 * lag for one in theirs for lag in one.lags],
            name,
            Target("p95 ratio", 1.2),
        ),
        Row(
            "end of a shell call to the next word",
            "s",
            [after_shell(one) for one in ours[_SHELL]],
            [after_shell(one) for one in bare[_SHELL]],
            name,
            Target("ratio", 1.1),
        ),
        Row(
            "processor time of a warm run, 40 words",
            "s",
            [sum(one.cpu.values()) for one in words],
            [sum(one.cpu.values()) for one in theirs],
            name,
            Target("p50", 1.4),
            note="of all processes of the stack, from the submit to the end at the viewer",
        ),
    ]


def _against_peer(ours: dict[str, list[Run]], peer: dict[str, list[Run]]) -> list[Row]:
    against = "OpenHands' agent server" if peers.OPENHANDS else "`opencode serve`, its event stream"

    def row(figure: str, script: str, which: str, limit: float) -> Row:
        mine = [getattr(one, which) for one in ours[script]]
        theirs = [getattr(one, which) for one in peer[script]]
        return Row(figure, "s", mine, theirs, against, Target("ratio", limit) if peers.OPENHANDS else None)

    return [
        row("warm: submit to first word", _WORDS, "first_word", 1.0),
        row("warm: submit to end, 40 words", _WORDS, "end", 1.2),
        row("warm: submit to end, a shell call of 1 s and 40 words", _SHELL, "end", 1.2),
        row("warm: last word to `completed`", _WORDS, "tail", 1.0),
    ]
