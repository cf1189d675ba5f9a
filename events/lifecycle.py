"""The life cycle of an execution: one table, used by code, docs and UI.

`docs/reference/lifecycle.md` and the console's state names are generated from `TABLE`.
"""

from __future__ import annotations

from enum import StrEnum

from ocf.events.errors import IllegalStep


class State(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    REJECTED = "rejected"


class Step(StrEnum):
    ACCEPT = "accept"
    REJECT = "reject"
    START = "start"
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"
    TIME_OUT = "time_out"


class Reason(StrEnum):
    """Why an execution failed (`failed.reason`)."""

    AGENT_ERROR = "agent_error"
    MODEL_ERROR = "model_error"
    MODEL_AUTH = "model_auth"
    INVALID_WORKSPACE = "invalid_workspace"
    PERMISSION_DENIED = "permission_denied"
    OUT_OF_MEMORY = "out_of_memory"
    STALLED = "stalled"
    WORKER_LOST = "worker_lost"
    BUDGET_EXCEEDED = "budget_exceeded"
    OUTPUT_LIMIT = "output_limit"


TABLE: dict[tuple[State | None, Step], State] = {
    (None, Step.ACCEPT): State.PENDING,
    (None, Step.REJECT): State.REJECTED,
    # Its submit was given up before it had handed the execution on.
    (State.PENDING, Step.REJECT): State.REJECTED,
    (State.PENDING, Step.START): State.RUNNING,
    (State.PENDING, Step.CANCEL): State.CANCELLED,
    (State.PENDING, Step.FAIL): State.FAILED,
    (State.PENDING, Step.TIME_OUT): State.TIMED_OUT,
    # A further attempt after its worker was lost: same state, next attempt number.
    (State.RUNNING, Step.START): State.RUNNING,
    (State.RUNNING, Step.COMPLETE): State.COMPLETED,
    (State.RUNNING, Step.FAIL): State.FAILED,
    (State.RUNNING, Step.CANCEL): State.CANCELLED,
    (State.RUNNING, Step.TIME_OUT): State.TIMED_OUT,
}

#: States that no step leaves. Exactly one of them ends every execution.
TERMINAL: frozenset[State] = frozenset(State) - {state for state, _ in TABLE if state is not None}


def step(state: State | None, taken: Step) -> State:
    """The state after `taken`.

    Raises:
        IllegalStep: the table has no such step; the message names both.
    """
    try:
        return TABLE[(state, taken)]
    except KeyError:
        raise IllegalStep(f"no step {taken.value!r} from state {state.value if state else 'none'!r}") from None
