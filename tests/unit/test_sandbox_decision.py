"""What `SANDBOX` decides on kernels that can do all, some or nothing of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ocf.cli import doctor
from ocf.functions.core import syscalls
from ocf.functions.execute.context import open_context
from ocf.functions.execute.sandbox import policy
from ocf.functions.execute.sandbox.confine import filter_program
from ocf.functions.execute.sandbox.policy import SandboxUnavailable, decide, support_of
from tests.support.parts import bench

EVERYTHING = support_of(6, seccomp=True)


def test_full_support_misses_nothing() -> None:
    """Landlock ABI 6 and seccomp are all that is asked for; later ABIs do as well."""
    assert EVERYTHING.missing == ()
    assert support_of(7, seccomp=True).missing == ()
    assert decide("required", EVERYTHING)
    assert decide("preferred", EVERYTHING)


@pytest.mark.parametrize(
    ("abi", "seccomp", "word"),
    [(0, True, "file rules"), (3, True, "network rules"), (5, True, "signal scoping"), (6, False, "seccomp")],
)
def test_required_names_what_is_missing(abi: int, seccomp: bool, word: str) -> None:
    """A kernel that lacks something stops the start with one line: the feature, and how to go on without."""
    with pytest.raises(SandboxUnavailable) as refusal:
        decide("required", support_of(abi, seccomp))
    message = str(refusal.value)
    assert word in message
    assert "SANDBOX=preferred" in message
    assert "SANDBOX=off" in message
    assert "\n" not in message


def test_preferred_takes_what_there_is() -> None:
    """`preferred` runs with file rules alone, and without any sandbox where there are none."""
    assert decide("preferred", support_of(3, seccomp=False))
    assert not decide("preferred", support_of(0, seccomp=True))


@pytest.mark.parametrize(("abi", "sandboxed", "said"), [(3, True, 1), (0, False, 1), (6, True, 0)])
async def test_preferred_says_once_what_it_does_without(
    abi: int, sandboxed: bool, said: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start, in the log: each missing part, and whether executions are sandboxed at all."""
    monkeypatch.setattr(policy, "sandbox_support", lambda: support_of(abi, seccomp=True))
    monkeypatch.setattr(syscalls, "protect_self", lambda: None)
    with capture_logs() as logged:
        async with open_context(bench(STATE_DIR=tmp_path, SANDBOX="preferred").deps):
            found = [line for line in logged if line.get("action") == "sandbox.incomplete"]
    assert [line["sandboxed"] for line in found] == [sandboxed] * said
    assert all("network rules" in " ".join(line["missing"]) for line in found)


def test_off_is_off() -> None:
    """`off` never uses the sandbox, not even where there is one."""
    assert not decide("off", EVERYTHING)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filter_jumps_stay_inside(machine: str) -> None:
    """Every jump of the seccomp program lands on an instruction of it, and its last one is a return."""
    program = filter_program(machine)
    assert len(program) % 8 == 0
    code = [program[at : at + 8] for at in range(0, len(program), 8)]
    assert len(code) < 4096
    for at, instruction in enumerate(code):
        if instruction[0] & 0x07 == 0x05:
            assert at + 1 + max(instruction[2], instruction[3]) < len(code)
    assert code[-1][0] == 0x06


def test_filter_refuses_unknown_machines() -> None:
    """Without a table of its calls, an architecture gets no filter rather than a wrong one."""
    with pytest.raises(OSError, match="riscv64"):
        filter_program("riscv64")


@pytest.mark.parametrize(
    ("mode", "abi", "ok", "needed", "words"),
    [
        ("required", 6, True, True, "SANDBOX=required, Landlock ABI 6; enforced: files yes, network yes, signals yes"),
        ("required", 3, False, True, "files yes, network no, signals no, system calls yes; missing: Landlock network"),
        ("preferred", 3, False, False, "SANDBOX=preferred, Landlock ABI 3; enforced: files yes, network no"),
        ("off", 6, False, False, "enforced: files no, network no, signals no, system calls no"),
    ],
)
def test_doctor_shows_what_is_enforced(
    monkeypatch: pytest.MonkeyPatch, mode: str, abi: int, ok: bool, needed: bool, words: str
) -> None:
    """Part by part, for the mode that is set; what is required and missing makes it fail."""
    monkeypatch.setenv("SANDBOX", mode)
    monkeypatch.setattr(policy, "sandbox_support", lambda: support_of(abi, seccomp=True))
    settings, _ = doctor._settings()
    (finding,) = doctor._sandbox(str(settings["SANDBOX"]))
    assert (finding.ok, finding.needed) == (ok, needed)
    assert words in finding.said
    assert ok or finding.fix
