"""The life cycle of an execution: one table, used by code, docs and UI.

`docs/reference/lifecycle.md` and the console's state names are generated from `TABLE`.
"""

from __future__ import annotations

from enum import StrEnum

from ocf.events.errors import IllegalStep


class State(StrEnum):
    """State of an execution."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    REJECTED = "rejected"


class Step(StrEnum):
    """Transition of an execution from one state to the next."""

    ACCEPT = "accept"
    REJECT = "reject"
    START = "start"
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"
    TIME_OUT = "time_out"


class Reason(StrEnum):
    """Machine-readable cause of a failed execution (`failed.reason`)."""

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
    OUTPUT_INVALID = "output_invalid"


TABLE: dict[tuple[State | None, Step], State] = {
    (None, Step.ACCEPT): State.PENDING,
    (None, Step.REJECT): State.REJECTED,
    # The submit was dead-lettered before it published the execute command.
    (State.PENDING, Step.REJECT): State.REJECTED,
    (State.PENDING, Step.START): State.RUNNING,
    (State.PENDING, Step.CANCEL): State.CANCELLED,
    (State.PENDING, Step.FAIL): State.FAILED,
    (State.PENDING, Step.TIME_OUT): State.TIMED_OUT,
    # The next attempt after a worker was lost: same state, next attempt number.
    (State.RUNNING, Step.START): State.RUNNING,
    (State.RUNNING, Step.COMPLETE): State.COMPLETED,
    (State.RUNNING, Step.FAIL): State.FAILED,
    (State.RUNNING, Step.CANCEL): State.CANCELLED,
    (State.RUNNING, Step.TIME_OUT): State.TIMED_OUT,
}

#: States without an outgoing step. Every execution ends in exactly one of them.
TERMINAL: frozenset[State] = frozenset(State) - {state for state, _ in TABLE if state is not None}


def step(state: State | None, taken: Step) -> State:
    """Return the state after the step `taken`.

    Raises:
        IllegalStep: The table does not have this step; the message names state and step.
    """
    try:
        return TABLE[(state, taken)]
    except KeyError:
        raise IllegalStep(f"no step {taken.value!r} from state {state.value if state else 'none'!r}") from None
