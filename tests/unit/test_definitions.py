"""Definitions of agents, skills and commands: what their front matter may say, and what wins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ocf.events.command_payloads import Execute
from ocf.events.optional_task_fields import MAX_DEFINITION_BYTES
from ocf.events.untrusted_json import MIB
from ocf.functions.core.agent_definitions import (
    PLAN_PERMISSIONS,
    InvalidDefinition,
    TaskDefinitions,
    agent_definition,
    command_definition,
    may_run_shell,
    narrowed,
    skill_definition,
)
from ocf.functions.execute.agent.config import permission_rules, shell_allowed
from ocf.functions.execute.inputs import definition_sources
from ocf.functions.execute.inputs.definition_sources import merged, of_repository, of_task
from ocf.functions.workspace import Sources
from ocf.functions.workspace.safe_walk import Entry, Walk, open_file, walk


def test_an_agent_keeps_its_prompt_and_permissions_and_loses_its_model() -> None:
    """`tools` is the older form of `permission`."""
    agent = agent_definition(
        "reviewer",
        "---\ndescription: Reviews\nmode: subagent\nmodel: a/b\nvariant: high\nplugin: [x]\ntemperature: 0.5\n"
        "tools:\n  write: false\npermission:\n  bash:\n    '*': ask\n    git log*: allow\n---\n\nLook.\n",
    )
    assert (agent.description, agent.mode, agent.prompt) == ("Reviews", "subagent", "Look.")
    assert agent.settings == {"temperature": 0.5}
    assert agent.permissions == {"write": "deny", "bash": "ask", "bash:git log*": "allow"}


def test_a_file_without_front_matter_is_a_prompt() -> None:
    """Its name describes it; a rule within the text is no front matter."""
    agent = agent_definition("a", "Hello\n---\nx: y\n---\n")
    assert (agent.description, agent.prompt, agent.mode) == ("a", "Hello\n---\nx: y\n---", "all")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("---\na: &x [1]\nb: *x\n---\n", "anchors or aliases"),
        ("---\n" + "a: " + "[" * 50 + "]" * 50 + "\n---\n", "too many values"),
        ("---\n" + "- 1\n" * 3000 + "---\n", "too many values"),
        ("---\n" + "#" * 20_000 + "\n---\n", "front matter of more than"),
        ("---\n- 1\n---\n", "not a YAML mapping"),
        ("---\na: [\n---\n", "not YAML (line"),
        ("---\na: !!python/object:os.system x\n---\n", "not YAML"),
        ("---\nmode: root\n---\n", "mode must be one of"),
        ("---\ntemperature: hot\n---\n", "temperature must be a number from 0 to 2"),
        ("---\npermission:\n  bahs: deny\n---\n", "bahs: not a permission"),
        ("---\npermission:\n  bash: maybe\n---\n", "must be one of allow, ask, deny"),
        ("---\ndescription: [1]\n---\n", "description must be a text"),
    ],
)
def test_hostile_or_wrong_front_matter_is_refused(text: str, message: str) -> None:
    """Before its values are built: a few aliases of aliases become gigabytes."""
    with pytest.raises(InvalidDefinition, match="(?s)" + message.replace("(", r"\(")):
        agent_definition("a", text)


def test_agents_of_opencode_cannot_be_replaced() -> None:
    """`build` is the default of every task."""
    with pytest.raises(InvalidDefinition, match="an agent of OpenCode itself"):
        agent_definition("build", "x")


def test_a_skill_is_named_by_the_task() -> None:
    """Other front matter, such as `allowed-tools`, is left out; its other files stay."""
    skill = skill_definition("mine", {"SKILL.md": b"---\nname: evil\nallowed-tools: bash\n---\nBody", "a.sh": b"x"})
    assert skill.files == {
        "SKILL.md": b"---\nname: mine\ndescription: mine\n---\nBody".replace(
            b"name: mine\ndescription: mine", b"description: mine\nname: mine"
        ),
        "a.sh": b"x",
    }
    with pytest.raises(InvalidDefinition, match=r"has no SKILL\.md"):
        skill_definition("mine", {"a.sh": b"x"})


@pytest.mark.parametrize(
    ("own", "task", "wanted"),
    [
        ({"edit": "deny"}, {}, {"edit": "deny"}),
        ({"edit": "deny"}, {"write": "allow"}, {"edit": "allow"}),
        ({"bash:git push*": "allow"}, {"bash": "deny"}, {"bash": "deny"}),
        ({"bash": "deny"}, {"bash:ls*": "allow"}, {"bash": "deny", "bash:ls*": "allow"}),
        ({"bash": "allow", "edit": "allow"}, {"*": "deny"}, {"*": "deny"}),
        ({"*": "deny", "read": "allow"}, {}, {"*": "deny", "read": "allow"}),
    ],
)
def test_permissions_of_the_task_win(own: dict[str, str], task: dict[str, str], wanted: dict[str, str]) -> None:
    """An agent's own entry stands where the task has no general one for that tool."""
    assert narrowed(own, task) == wanted


def test_the_plan_agent_may_not_edit_unless_the_task_says_so() -> None:
    """OpenCode's own rule for it is overridden by the configuration of every server."""
    assert TaskDefinitions().permissions_of("plan") == PLAN_PERMISSIONS
    assert permission_rules(narrowed(PLAN_PERMISSIONS, {}), can_answer=True)[-1]["permission"] == "edit"
    assert narrowed(PLAN_PERMISSIONS, {"edit": "allow"}) == {"edit": "allow"}


@pytest.mark.parametrize(
    ("permissions", "enabled", "allowed"),
    [
        ({}, None, True),
        ({"bash": "allow"}, None, True),
        ({"bash": "deny"}, None, False),
        ({"bash": "ask"}, None, False),
        ({"*": "deny"}, None, False),
        ({"*": "deny", "bash": "allow"}, None, True),
        ({"bash:rm*": "deny"}, None, False),
        ({}, ("read",), False),
        ({}, ("bash",), True),
    ],
)
def test_shell_lines_need_bash_without_any_limit(
    permissions: dict[str, str], enabled: tuple[str, ...] | None, allowed: bool
) -> None:
    """OpenCode runs the shell lines of a template without asking its rules."""
    assert shell_allowed(permission_rules(permissions, enabled, can_answer=True)) is allowed


@pytest.mark.parametrize(
    ("template", "arguments", "runs"),
    [
        ("Look at !`git log`", "", True),
        ("Look at `this`!", "now", False),
        ("Say $ARGUMENTS", "hello!", False),
        ("Say $ARGUMENTS", "!`id`", True),
        ("Say !$1", "`id`", True),
        ("Say `a` b!", "$`", True),
    ],
)
def test_shell_lines_are_seen_also_where_arguments_complete_them(template: str, arguments: str, runs: bool) -> None:
    """OpenCode fills the arguments in first. A false alarm only refuses a command where bash is limited."""
    assert may_run_shell(template, arguments) is runs


def test_a_command_needs_a_template() -> None:
    """Its front matter chooses no model."""
    command = command_definition("---\nagent: plan\nmodel: a/b\nsubtask: true\n---\nDo it\n")
    assert (command.template, command.agent, command.subtask) == ("Do it", "plan", True)
    with pytest.raises(InvalidDefinition, match="template below the front matter is empty"):
        command_definition("---\nagent: plan\n---\n")


async def test_a_repository_brings_definitions_and_nothing_else(tmp_path: Path) -> None:
    """Unusable ones are ignored with the reason; links are not followed; the task's win."""
    for path, text in {
        ".opencode/agents/good.md": "Be good.",
        ".opencode/agents/bad.md": "---\nmode: x\n---\n",
        ".opencode/command/go.md": "Go",
        ".claude/skills/ship/SKILL.md": "Ship it",
        ".opencode/skill/ship/SKILL.md": "Ship it well",
        ".opencode/plugin/evil.ts": "evil",
        "opencode.json": '{"mcp": {"evil": {}}}',
    }.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / ".opencode/agents/leak.md").symlink_to("/etc/passwd")
    found = await of_repository(tmp_path)
    assert set(found.agents) == {"good"}
    assert [line.split(":")[0] for line in found.ignored] == ["agent bad"]
    assert set(found.commands) == {"go"}
    assert b"Ship it well" in found.skills["ship"].files["SKILL.md"]
    task = TaskDefinitions(agents={"good": agent_definition("good", "Be better.")})
    assert merged(found, task).agents["good"].prompt == "Be better."
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/.opencode").symlink_to(tmp_path / ".opencode")
    assert not await of_repository(tmp_path / "linked")


async def test_a_definition_of_a_repository_that_cannot_be_read_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too large, too many files, or not readable: the others are found, and the output says why."""
    for path, size in {
        ".opencode/agents/good.md": 10,
        ".opencode/agents/huge.md": MAX_DEFINITION_BYTES + 1,
        ".opencode/agents/secret.md": 10,
        ".opencode/commands/go.md": 10,
        ".opencode/skills/large/SKILL.md": 10,
        ".opencode/skills/large/data.bin": 2 * MIB + 1,
        ".opencode/skills/ship/SKILL.md": 10,
        **{f".opencode/skills/many/{number}.txt": 1 for number in range(200)},
        ".opencode/skills/many/SKILL.md": 10,
        ".claude/skills/large/SKILL.md": 10,
    }.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * size)
    opened = open_file

    def refused(entry: Entry) -> int:  # the suite may run as root, who may read every file
        if entry.name == "secret.md":
            raise PermissionError(13, "Permission denied", entry.name)
        return opened(entry)

    def closed(top: Path, how: Walk) -> Iterator[Entry]:
        if top == tmp_path / ".agents/skills":
            raise PermissionError(13, "Permission denied", str(top))
        return walk(top, how)

    (tmp_path / ".agents/skills").mkdir(parents=True)
    monkeypatch.setattr(definition_sources, "open_file", refused)
    monkeypatch.setattr(definition_sources, "walk", closed)
    found = await of_repository(tmp_path)
    assert (set(found.agents), set(found.skills), set(found.commands)) == ({"good"}, {"ship"}, {"go"})
    assert sorted(found.ignored) == [
        ".agents/skills: it cannot be read (Permission denied)",
        "agent huge: huge.md is too large",
        "agent secret: it cannot be read (Permission denied)",
        "skill large: data.bin is too large",
        "skill many: .opencode/skills/many has more than 200 files",
    ]


@pytest.mark.parametrize("whole", [True, False], ids=["a folder", "one"])
async def test_a_definition_of_the_task_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """The task asked for it, so the message names it."""
    for name, size in {"a": 10, "huge": MAX_DEFINITION_BYTES + 1}.items():
        (tmp_path / f"{name}.md").write_bytes(b"x" * size)

    async def cloned(*_: object) -> Path:
        return tmp_path

    monkeypatch.setattr(definition_sources._Clones, "of", cloned)
    source = {"from": {"git": "https://example.com/a.git"}}
    ids = {"execution_id": "00000000-0000-4000-8000-000000000001", "project_id": "p"}
    fields = {**ids, "prompt": "go", "submitted_at": "2026-01-01T00:00:00Z"}
    task = Execute.model_validate({**fields, "agents": source if whole else {"huge": source, "a": source}})
    with pytest.raises(InvalidDefinition, match=r"huge\.md is too large"):
        await of_task(task, tmp_path, Sources())
