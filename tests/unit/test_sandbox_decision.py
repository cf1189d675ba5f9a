"""What `SANDBOX` decides on kernels that can do all, some or nothing of it."""

from __future__ import annotations

import pytest

from functions.execute.confine import filter_program
from functions.execute.sandbox import SandboxUnavailable, decide, support_of

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
