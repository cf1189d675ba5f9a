"""Check the shape and the English of the product's code; print its size.

    check_house.py [--count]

Sizes: folders of at most 16 modules (`events/` 24), files of 40 to 350 lines, functions of at most 60. English: no
opening and no phrase of the list below in a docstring, a comment or a page. `EXCEPTIONS` names each file that may
differ, with the reason. `--count` prints the lines of code only: without imports, docstrings, comments and blank lines.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("events", "functions", "ocf")
MAX_MODULES = {"events": 24}
_MODULES, _LEAST, _MOST, _FUNCTION = 16, 40, 350, 60
EXCEPTIONS: dict[str, str] = {
    "functions/archive/main.py": "functions-framework needs a module for each function",
    "functions/cancel/main.py": "functions-framework needs a module for each function",
    "functions/cleanup/main.py": "functions-framework needs a module for each function",
    "functions/result/main.py": "functions-framework needs a module for each function",
    "functions/database/migrations/versions/history_0002.py": "one column",
    "functions/database/migrations/versions/history_0003.py": "one column and its index",
    "functions/database/migrations/versions/history_0004.py": "two columns and their indexes",
    "functions/database/migrations/versions/history_0005.py": "one column",
    "functions/database/migrations/versions/history_0006.py": "one index",
    "functions/database/migrations/versions/history_0007.py": "one table and one column",
    "functions/database/migrations/versions/history_0008.py": "one table",
    "events/prompt_injection_marks.py": "one rule that rules, submit and publishing share",
    "events/archive_manifest.py": "one look-up that client, gateway and functions share",
    "functions/history/main.py": "functions-framework needs a module for each function",
    "functions/database/migrations/env.py": "Alembic needs a module for its environment",
    "functions/session/main.py": "functions-framework needs a module for each function",
    "functions/submit/main.py": "functions-framework needs a module for each function",
    "functions/trigger/main.py": "functions-framework needs a module for each function",
    "functions/gateway": "17 concerns of one HTTP server, besides `routes/`",
    "functions/core": "18 rules that functions share",
    "ocf/cli": "18 groups of verbs",
    "events": "25 concerns of the events, the fields of a task and the parts of a payload among them",
    "functions/execute/inputs/schema_process.py": "a process of its own that imports nothing of the project",
    "events/adapters/nats/inbox_prefix.py": "the parsing of one file format",
    "events/command_publisher.py": "one rule and three names",
    "functions/core/asyncio_tasks.py": "one rule that many rooms import",
    "functions/core/system_clock.py": "the one real clock",
    "functions/core/lease_lookup.py": "one rule that sweep and takeover share",
    "functions/core/task_limits.py": "one rule that submit and execute share",
    "functions/dispatcher/requeue_backoff.py": "one rule",
    "functions/execute/agent/available_memory.py": "one measurement",
    "functions/gateway/metrics.py": "a table",
    "functions/models/endpoint_check.py": "one rule",
    "functions/runtime/early_signals.py": "imports nothing of the project, so that a container ends at once",
    "functions/runtime/health.py": "the dispatcher serves it without a framework",
    "functions/workspace/errors.py": "error classes",
    "functions/workspace/threads.py": "one helper of three modules",
    "events/adapters/memory_bus.py": "the port in memory, held to the real one by one contract suite",
    "events/adapters/nats/bus.py": "the only module that touches nats-py",
    "events/command_payloads.py": "the payloads of all commands",
    "events/envelope.py": "one format: reading, writing and checking an event",
    "events/ports.py": "the protocols, with their contracts",
    "functions/execute/agent/agent.py": "one conversation with OpenCode",
    "functions/execute/agent/opencode_api.py": "the only module that speaks OpenCode's HTTP API",
    "functions/execute/agent/translate.py": "one state machine",
    "functions/execute/attempt/output_publisher.py": "one writer",
    "functions/execute/sandbox/process.py": "one process tree",
    "functions/settings/settings.py": "a table",
}
#: Openings of docstrings, and phrases, that a reader has to read twice.
_OPENING = re.compile(r"(What|Who|How|Whether)\b")
_PHRASES = re.compile(
    r"\b(anew|borne|without a word|who comes|(?:is|are|was|were) (?:said|told|heard)|nobody vouches)\b",
    re.I,
)
_CODE = (
    {tokenize.NAME, tokenize.NUMBER, tokenize.STRING, tokenize.OP, tokenize.FSTRING_START}
    if hasattr(tokenize, "FSTRING_START")
    else {tokenize.NAME, tokenize.NUMBER, tokenize.STRING, tokenize.OP}
)


def modules() -> list[Path]:
    """Return the product's written Python files, without what is generated or reached through a link."""
    found = (path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    written = (path for path in found if "`make generate`" not in path.read_text().partition("\n")[0])
    return sorted(path for path in written if path.resolve() == path)


def code_lines(text: str) -> int:
    """Return how many lines hold code: no import, docstring, comment or blank line."""
    tree = ast.parse(text)
    dropped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            dropped.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    for string in docstrings(tree):
        dropped.update(range(string.lineno, (string.end_lineno or string.lineno) + 1))
    held: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in _CODE:
            held.update(range(token.start[0], token.end[0] + 1))
    return len(held - dropped)


def docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    """Yield the docstrings of the module, its classes and functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                yield first.value


def sizes(path: Path, text: str) -> Iterator[str]:
    """Yield what is too long or too short in a file."""
    lines = text.count("\n")
    if path.name != "__init__.py" and not _LEAST <= lines <= _MOST:
        yield f"{lines} lines; {_LEAST} to {_MOST} are allowed"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > _FUNCTION:
                yield f"{node.name}: {length} lines; at most {_FUNCTION} are allowed"


def english(text: str) -> Iterator[str]:
    """Yield the sentences of a Python file that use an opening or a phrase of the list."""
    for string in docstrings(ast.parse(text)):
        words = str(string.value)
        if _OPENING.match(words):
            yield f"{string.lineno}: begins with {words.split()[0]!r}; begin with the subject or an imperative"
        yield from (f"{string.lineno}: {match[0]!r}" for match in _PHRASES.finditer(words))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield from (f"{token.start[0]}: {match[0]!r}" for match in _PHRASES.finditer(token.string))


def folders(paths: list[Path]) -> Iterator[str]:
    """Yield the folders with too many modules."""
    for folder in sorted({path.parent for path in paths}):
        name = str(folder.relative_to(ROOT))
        count = sum(path.parent == folder and path.name != "__init__.py" for path in paths)
        if count > MAX_MODULES.get(name, _MODULES) and name not in EXCEPTIONS:
            yield f"{name}/: {count} modules; at most {MAX_MODULES.get(name, _MODULES)} are allowed"


def main(arguments: list[str]) -> int:
    """Print the problems and the size; return 1 when there is a problem."""
    paths = modules()
    total, problems = 0, list(folders(paths))
    for path in paths:
        text, name = path.read_text(), str(path.relative_to(ROOT))
        total += code_lines(text)
        problems += [f"{name}: {problem}" for problem in sizes(path, text) if name not in EXCEPTIONS]
        problems += [f"{name}:{problem}" for problem in english(text)]
    for page in sorted((ROOT / "docs").rglob("*.md")):
        for number, line in enumerate(page.read_text().splitlines(), 1):
            problems += [f"{page.relative_to(ROOT)}:{number}: {match[0]!r}" for match in _PHRASES.finditer(line)]
    sys.stdout.write(f"{total} lines of code in {len(paths)} files\n")
    if "--count" in arguments:
        return 0
    sys.stdout.writelines(f"{problem}\n" for problem in problems)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
