"""A result: one branch and one pull request, whatever fails in between; nothing of the repository is run."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocf.events.lifecycle import State
from ocf.events.session_record import Session
from ocf.functions import workspace
from ocf.functions.publishing import branch
from ocf.functions.publishing.branch import ResultRejected
from ocf.functions.publishing.publisher import ARCHIVE, Work
from ocf.functions.workspace.git import Git, GitFailed
from tests.support.forge import TOKEN, StandIn, stand_in
from tests.support.git_http import run_git
from tests.support.parts import PROJECT
from tests.support.publishing import FILES, publishing


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[StandIn]:
    with stand_in(tmp_path / "forge", FILES) as made:
        yield made


async def test_changes_become_a_branch_and_a_pull_request(forge: StandIn, tmp_path: Path) -> None:
    """The tree is that of the workspace: new, changed, removed, executable, link; one commit on the cloned one."""
    run = await publishing(forge, tmp_path / "run", CONSOLE_URL="https://ocf.example/console")
    run.write("src/app.py", "print('two')\n")
    run.write("new/ä file", "new\n")
    (run.tree / "docs/note.txt").unlink()
    (run.tree / "run.sh").write_text("#!/bin/sh\n")
    (run.tree / "run.sh").chmod(0o755)
    os.symlink("README.md", run.tree / "link")
    published = await run.publish()
    assert forge.tree("ocf/fix") == {
        "README.md": "100644 # app\n",
        "src/app.py": "100644 print('two')\n",
        "new/ä file": "100644 new\n",
        "run.sh": "100755 #!/bin/sh\n",
        "link": "120000 README.md",
    }
    assert [published.commit, forge.head("main")] == forge.commits("ocf/fix")
    (pull,) = forge.pulls
    assert (pull["title"], pull["base"]["ref"], pull["head"]["ref"]) == ("Mend the app", "main", "ocf/fix")
    link = f"https://ocf.example/console/#/tasks/{run.task.execution_id}?project=default"
    assert pull["body"] == f"It is mended.\n\n{link}"
    assert published.pull_request is not None
    assert published.pull_request.url == pull["html_url"]
    assert (await run.record()).pushed == [published.commit]
    assert all(login == f"x-access-token:{TOKEN}" for login in forge.git.logins)
    assert TOKEN not in "".join(path.read_text() for path in (tmp_path / "run").rglob("*config") if path.is_file())


async def test_published_twice_is_one_branch_and_one_pull_request(forge: StandIn, tmp_path: Path) -> None:
    """From memory, and from the archive by a successor: the same commit, and nothing is pushed again."""
    run = await publishing(forge, tmp_path / "run")
    run.write("src/app.py", "print('two')\n")
    await run.archive()
    first = await run.publish()
    assert await run.publish() == first
    assert await run.publish_archived() == first
    assert len(forge.pulls) == 1
    assert len(forge.commits("ocf/fix")) == 2


async def test_the_archive_gives_the_same_commit(forge: StandIn, tmp_path: Path) -> None:
    """A worker that was lost before it pushed leaves the same commit to its successor."""
    run = await publishing(forge, tmp_path / "run")
    run.write("new.txt", "new\n")
    (run.tree / "docs/note.txt").unlink()
    await run.archive()
    from_archive = await run.publish_archived()
    record = await run.record()
    await run.bench.deps.records.change("default", record.execution_id, lambda r: r.model_copy(update={"pushed": []}))
    assert await run.publish() == from_archive


async def test_lost_between_push_and_pull_request(forge: StandIn, tmp_path: Path) -> None:
    """The first worker pushes and dies at the API call; its successor opens the one pull request."""
    run = await publishing(forge, tmp_path / "run")
    run.write("src/app.py", "print('two')\n")
    await run.archive()

    forge.before = lambda method, path: 403 if (method, path) == ("POST", "/repos/team/app/pulls") else None
    with pytest.raises(ResultRejected, match="403"):
        await run.publish()
    head = forge.head("ocf/fix")
    assert head is not None
    forge.before = lambda *_: None
    published = await run.publish_archived()
    assert (published.commit, len(forge.pulls)) == (head, 1)


@pytest.mark.parametrize("lost", [500, 0], ids=["answer lost", "connection lost"])
async def test_a_lost_answer_makes_no_second_pull_request(forge: StandIn, tmp_path: Path, lost: int) -> None:
    """The forge opened it and the answer was lost: the next try finds it."""
    run = await publishing(forge, tmp_path / "run")
    run.write("src/app.py", "print('two')\n")
    left = [1]

    def loses(method: str, path: str) -> int | None:
        return lost if method == "POST" and path.endswith("/pulls") and left.pop(0) else None

    forge.after = lambda method, path: loses(method, path) if left else None
    published = await run.publish()
    assert [pull["html_url"] for pull in forge.pulls] == [published.pull_request.url if published.pull_request else ""]


async def test_a_forge_that_stays_away_is_a_reason(forge: StandIn, tmp_path: Path) -> None:
    """Tried seven times; pushed again later, it is one pull request."""
    run = await publishing(forge, tmp_path / "run")
    run.write("src/app.py", "print('two')\n")
    await run.archive()
    forge.before = lambda *_: 503
    with pytest.raises(ResultRejected, match=r"503.*gave up after 7 tries"):
        await run.publish()
    forge.before = lambda *_: None
    assert (await run.publish_archived()).pull_request is not None
    assert len(forge.pulls) == 1


async def test_a_pack_that_broke_off_does_not_stay_for_the_next_try(
    forge: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven tries of a server that sends gigabytes would leave seven packs. Each is limited to a workspace's size."""
    run = await publishing(forge, tmp_path / "run")
    run.write("src/app.py", "print('two')\n")
    left: list[bool] = []
    limits: set[int | None] = set()

    async def breaks_off(_: str, __: object, ___: object, directory: Path, git: Git, *____: object) -> None:
        pack = directory / "objects/pack/tmp_pack_x"
        left.append(pack.exists())
        limits.add(git.max_file_bytes)
        pack.parent.mkdir(parents=True, exist_ok=True)
        pack.write_bytes(b"x")
        raise GitFailed("the connection broke off")

    monkeypatch.setattr(branch, "fetch_commit", breaks_off)
    with pytest.raises(ResultRejected, match="gave up after 7 tries"):
        await run.publish()
    assert left == [False] * 7
    assert limits == {run.bench.deps.settings.max_workspace_bytes}


async def test_without_changes_nothing_is_pushed(forge: StandIn, tmp_path: Path) -> None:
    """Also when a file was only written anew."""
    run = await publishing(forge, tmp_path / "run")
    run.write("README.md", FILES["README.md"])
    published = await run.publish()
    assert (published.commit, published.message) == (None, "no changes: nothing was pushed")
    assert (forge.head("ocf/fix"), forge.pulls) == (None, [])


async def test_a_branch_of_somebody_else_is_left_alone(forge: StandIn, tmp_path: Path) -> None:
    """There before, or moved by a commit on top of ours."""
    run = await publishing(forge, tmp_path / "run")
    run.write("src/app.py", "print('two')\n")
    bare = forge.root / "team/app.git"
    run_git("branch", "taken", "main", cwd=bare)
    with pytest.raises(ResultRejected, match="did not push"):
        await run.asking(branch="taken").publish()
    await run.publish()
    run_git("clone", "--quiet", "--branch", "ocf/fix", str(bare), "human", cwd=tmp_path)
    (tmp_path / "human/README.md").write_text("# mine\n")
    run_git("commit", "--quiet", "--all", "--message=mine", cwd=tmp_path / "human")
    run_git("push", "--quiet", cwd=tmp_path / "human")
    run.write("src/app.py", "print('three')\n")
    with pytest.raises(ResultRejected, match="did not push"):
        await run.publish()
    assert forge.tree("ocf/fix")["README.md"] == "100644 # mine\n"


@pytest.mark.parametrize("branch", ["main", "dev"])
async def test_the_base_and_the_default_branch_are_refused(forge: StandIn, tmp_path: Path, branch: str) -> None:
    """Whichever of them the result names."""
    run_git("branch", "dev", "main", cwd=forge.root / "team/app.git")
    run = await publishing(forge, tmp_path / "run")
    run.write("src/app.py", "print('two')\n")
    with pytest.raises(ResultRejected, match="base or the default branch"):
        await run.asking(branch=branch, base="dev").publish()
    assert forge.tree(branch) == {path: f"100644 {text}" for path, text in FILES.items()}


@pytest.mark.parametrize(
    "path",
    [
        ".github/workflows/ci.yml",
        ".GitHub/Workflows/ci.yml",
        ".github/actions/x/action.yml",
        ".gitlab-ci.yml",
        ".gitea/workflows/x.yaml",
        ".forgejo/workflows/x.yaml",
        "CODEOWNERS",
        "docs/CODEOWNERS",
        ".gitlab/CODEOWNERS",
    ],
)
async def test_a_workflow_in_the_diff_is_refused(forge: StandIn, tmp_path: Path, path: str) -> None:
    """Unless task and operator both allow it; the work is not lost."""
    run = await publishing(forge, tmp_path / "run")
    run.write(path, "on: push\n")
    with pytest.raises(ResultRejected, match="allow_ci_changes"):
        await run.publish()
    with pytest.raises(ResultRejected, match="allow_ci_changes"):
        await run.asking(allow_ci_changes=True).publish()
    assert forge.head("ocf/fix") is None


async def test_an_allowed_workflow_is_pushed(forge: StandIn, tmp_path: Path) -> None:
    """With ALLOW_CI_CHANGES; other files below .github need nothing."""
    run = await publishing(forge, tmp_path / "run", ALLOW_CI_CHANGES=True)
    run.write(".github/ISSUE_TEMPLATE.md", "x\n")
    await run.asking(branch="plain").publish()
    run.write(".github/workflows/ci.yml", "on: push\n")
    await run.asking(branch="ci", allow_ci_changes=True).publish()
    assert ".github/workflows/ci.yml" in forge.tree("ci")


async def test_a_link_in_place_of_the_workflows_is_refused(forge: StandIn, tmp_path: Path) -> None:
    """A link called `.github` to a folder of the agent's choice."""
    run = await publishing(forge, tmp_path / "run")
    run.write("mine/workflows/ci.yml", "on: push\n")
    os.symlink("mine", run.tree / ".github")
    with pytest.raises(ResultRejected, match="allow_ci_changes"):
        await run.publish()


async def test_hooks_filters_and_configuration_of_the_repository_do_not_run(forge: StandIn, tmp_path: Path) -> None:
    """Everything that git would run at a commit or a push, put into the workspace by the agent."""
    run = await publishing(forge, tmp_path / "run")
    ran = tmp_path / "ran"
    command = f"#!/bin/sh\necho x >> {ran}\ncat\n"
    for hook in ("pre-commit", "pre-push", "post-commit", "reference-transaction", "post-index-change"):
        run.write(f".git/hooks/{hook}", command)
        (run.tree / ".git/hooks" / hook).chmod(0o755)
    run.write("filter.sh", command)
    (run.tree / "filter.sh").chmod(0o755)
    run.write(".gitattributes", "* filter=evil diff=evil merge=evil text eol=crlf\n")
    config = f"""[filter "evil"]\n\tclean = {run.tree}/filter.sh\n\tsmudge = {run.tree}/filter.sh\n\trequired = true
[diff "evil"]\n\tcommand = {run.tree}/filter.sh\n[core]\n\tfsmonitor = {run.tree}/filter.sh
\tsshCommand = {run.tree}/filter.sh\n[credential]\n\thelper = !{run.tree}/filter.sh\n[remote "origin"]
\turl = {run.tree}/elsewhere\n\tpushurl = ext::{run.tree}/filter.sh\n[url "{tmp_path}/"]\n\tinsteadOf = http\n"""
    run.write(".git/config", config)
    run.write("src/app.py", "print('two')\r\n")
    await run.publish()
    assert not ran.exists()
    assert forge.tree("ocf/fix")["src/app.py"] == "100644 print('two')\r\n"
    assert not any(path.startswith(".git/") for path in forge.tree("ocf/fix"))


async def test_commits_and_branches_of_the_agent_are_not_pushed(forge: StandIn, tmp_path: Path) -> None:
    """One commit with the workspace as it is, also if the agent committed half of it, and no object of its own."""
    run = await publishing(forge, tmp_path / "run")
    run.write("src/app.py", "secret\n")
    run_git("commit", "--quiet", "--all", "--message=half", cwd=run.tree)
    run.write("src/app.py", "print('two')\n")
    published = await run.publish()
    assert forge.commits("ocf/fix") == [published.commit, forge.head("main")]
    assert run_git("for-each-ref", "--format=%(refname)", cwd=forge.root / "team/app.git").split() == [
        "refs/heads/main",
        "refs/heads/ocf/fix",
    ]


async def test_files_that_git_converts_stay_as_they_are(tmp_path: Path) -> None:
    """A file checked out with other line ends is no change, from memory and from the archive."""
    with stand_in(
        tmp_path / "forge", {".gitattributes": "*.bat eol=crlf\n", "a.bat": "one\n", "b.txt": "x\n"}
    ) as forge:
        run = await publishing(forge, tmp_path / "run")
        assert (run.tree / "a.bat").read_bytes() == b"one\r\n"
        run.write("b.txt", "y\n")
        await run.archive()
        await run.publish()
        assert forge.tree("ocf/fix")["a.bat"] == "100644 one\n"
        await run.asking(branch="again").publish_archived()
        assert forge.tree("again") == forge.tree("ocf/fix")


async def test_a_pull_request_of_before_is_updated(forge: StandIn, tmp_path: Path) -> None:
    """Titles and texts that the task gives; what the forge refuses besides is said and fails nothing."""
    run = await publishing(forge, tmp_path / "run")
    run.write("src/app.py", "print('two')\n")
    await run.publish()
    forge.before = lambda method, path: 422 if path.endswith("/labels") else None
    fields = (
        run.task.result.pull_request.model_copy(update={"title": "Better", "labels": ["agent"]})
        if run.task.result
        else None
    )
    published = await run.asking(pull_request=fields).publish()
    assert [(pull["title"], pull["body"]) for pull in forge.pulls] == [("Better", "It is mended.")]
    assert published.message is not None
    assert published.message.startswith("labels: ")


async def test_a_protected_branch_is_a_reason(forge: StandIn, tmp_path: Path) -> None:
    """The server's own words, once: a retry would not help."""
    run = await publishing(forge, tmp_path / "run")
    run.write("src/app.py", "print('two')\n")
    hook = forge.root / "team/app.git/hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'branch is protected' >&2\nexit 1\n")
    hook.chmod(0o755)
    pushes: list[int] = []
    forge.git.before_push = lambda: pushes.append(1)
    with pytest.raises(ResultRejected, match="branch is protected"):
        await run.publish()
    assert len(pushes) <= 2  # git asks once without and once with its credential


async def test_a_large_file_is_a_reason(forge: StandIn, tmp_path: Path) -> None:
    """It is in the archive and in no commit, so the branch would not be the workspace."""
    run = await publishing(forge, tmp_path / "run")
    with (run.tree / "large").open("wb") as file:
        file.truncate(workspace.Limits().patch_file_bytes + 1)
    with pytest.raises(ResultRejected, match=r"too large.*large"):
        await run.publish()


async def test_the_next_turn_of_a_session_goes_on_top(forge: StandIn, tmp_path: Path) -> None:
    """The workspace comes from the session's archive; branch and pull request get one more commit. An execution of no
    session is refused."""
    run = await publishing(forge, tmp_path / "run")
    run.write("src/app.py", "print('two')\n")
    first = await run.publish()
    session, execution = str(uuid.uuid4()), str(uuid.uuid4())
    now = run.bench.deps.clock.now()
    times = {"created_at": now, "updated_at": now, "expires_at": now, "ttl_seconds": 60}
    ids = {"session_id": session, "project_id": "default", "executions": [run.task.execution_id, execution]}
    await run.bench.deps.session_records.create(Session.model_validate(times | ids))
    archive = tmp_path / "saved.zst"
    await workspace.pack(run.prepared, archive)
    tree, private = tmp_path / "turn2/tree", tmp_path / "turn2/private"
    restored = await workspace.restore(archive, tree, private, workspace.Limits())
    (tree / "src/more.py").write_text("more\n")
    patch = await workspace.write_patch(restored, tmp_path / "turn2.patch")
    task = run.task.model_copy(update={"execution_id": execution, "session_id": session})
    record = (await run.record()).model_copy(update={"execution_id": execution, "pushed": []})
    await run.bench.deps.records.create(record)
    assert run.prepared.commit is not None
    work = Work(run.source, run.prepared.commit, tmp_path / "turn2/result", restored, patch)
    with pytest.raises(ResultRejected, match="did not push"):
        await run.bench.deps.results.publish(task.model_copy(update={"session_id": None}), "", work)
    await run.bench.deps.results.try_status(task, State.RUNNING)
    second = await run.bench.deps.results.publish(task, "", work)
    await run.bench.deps.results.try_status(task, State.COMPLETED)
    states = [(one["commit"], one["state"], one["context"]) for one in forge.statuses]
    ends = [(second.commit, "success", "ocf"), (first.commit, "success", "ocf")]
    assert states == [(first.commit, "pending", "ocf"), *ends]
    assert second.pull_request == first.pull_request
    assert forge.commits("ocf/fix") == [second.commit, first.commit, forge.head("main")]
    assert forge.tree("ocf/fix")["src/app.py"] == "100644 print('two')\n"
    assert forge.tree("ocf/fix")["src/more.py"] == "100644 more\n"
    assert len(forge.pulls) == 1


async def test_a_status_that_is_refused_changes_nothing(forge: StandIn, tmp_path: Path) -> None:
    """Without a commit of its own nothing is asked; a refusal is logged only."""
    run = await publishing(forge, tmp_path / "run")
    await run.bench.deps.results.try_status(run.task, State.RUNNING)
    assert forge.calls == []
    run.write("src/app.py", "print('two')\n")
    await run.publish()
    forge.before = lambda method, path: 403 if "statuses" in path else None
    await run.bench.deps.results.try_status(run.task, State.COMPLETED)
    assert forge.statuses == []


async def test_the_commit_has_exactly_the_tree_of_the_archive(forge: StandIn, tmp_path: Path) -> None:
    """Names that are options, quotes, line ends, no UTF-8; modes; links to nowhere and out; a directory for a file."""
    run = await publishing(forge, tmp_path / "run")
    names = [
        "-rf",
        "--exec=x",
        "a\nline",
        "quote\"'",
        "tab\t",
        " blank ",
        "$(x)`",
        "back\\slash",
        "spä",
        ":(glob)*",
        "\udcff",
    ]
    for name in (*names, "deep/-/..x/file", "docs/sub/more"):
        run.write(name, name.encode(errors="surrogateescape").hex())
    run.write("tool", "#!/bin/sh\n")
    (run.tree / "tool").chmod(0o755)
    (run.tree / "README.md").unlink()
    (run.tree / "README.md").mkdir()
    run.write("README.md/now a directory", "x")
    for link, to in (("out", "/etc/passwd"), ("up", "../../x"), ("nowhere", "no\nfile"), ("-l", "tool")):
        os.symlink(to, run.tree / link)
    await run.archive()
    await run.publish()
    archived = tmp_path / "archived"
    key = f"{PROJECT}/{run.task.execution_id}/{ARCHIVE}"
    (tmp_path / "archive").write_bytes(await run.bench.store.get(key))
    await workspace.unpack(tmp_path / "archive", archived, workspace.Limits())
    found = {}
    for path in archived.rglob("*"):
        if path.is_symlink():
            found[str(path.relative_to(archived))] = f"120000 {os.readlink(path)}"
        elif path.is_file() and ".git" not in path.parts:
            mode = "100755" if path.stat().st_mode & 0o100 else "100644"
            found[str(path.relative_to(archived))] = f"{mode} {path.read_text()}"
    assert forge.tree("ocf/fix") == found


async def test_changes_in_a_submodule_are_named(forge: StandIn, tmp_path: Path) -> None:
    """They are not pushed, the submodule's commit stays, and the result says so."""
    seed, commit = forge.root / "seed", forge.head("main")
    run_git("update-index", "--add", "--cacheinfo", f"160000,{commit},lib/one", cwd=seed)
    run_git("commit", "--quiet", "--message=submodule", cwd=seed)
    run_git("push", "--quiet", str(forge.root / "team/app.git"), "main", cwd=seed)
    run = await publishing(forge, tmp_path / "run")
    run.write("lib/one/changed.txt", "x")
    published = await run.publish()
    assert published.commit is None
    assert published.message is not None
    assert "submodules are not part of it, push them there: lib/one" in published.message
    run.write("lib/one-more.txt", "no submodule")
    published = await run.publish()
    assert published.message is not None
    assert published.message.startswith("changes in submodules")
    assert forge.tree("ocf/fix")["lib/one"] == f"160000 {commit}"
    assert forge.tree("ocf/fix")["lib/one-more.txt"] == "100644 no submodule"


async def test_a_link_that_leads_out_is_in_no_commit(forge: StandIn, tmp_path: Path) -> None:
    """The archive has none, and so the commit of a successor, which works from it, is that of the worker."""
    run = await publishing(forge, tmp_path / "run")
    run.write("src/app.py", "print('two')\n")
    os.symlink("../..", run.tree / "up")
    await run.archive()
    published = await run.publish()
    await run.bench.deps.records.change(
        PROJECT, run.task.execution_id, lambda record: record.model_copy(update={"pushed": []})
    )
    assert await run.publish_archived() == published
    assert "up" not in forge.tree("ocf/fix")
