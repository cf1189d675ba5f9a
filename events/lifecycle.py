"""The life cycles of executions, attempts and sessions: one table each.

No other module has a transition rule. `docs/reference/lifecycle.md` and `console/src/stream/lifecycle-states.ts` are
generated from the tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

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


class AttemptState(StrEnum):
    """State of an attempt. The record stores it as `ended` once it is terminal."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    WORKER_LOST = "worker_lost"
    #: The worker shut down in order; another attempt follows.
    RELEASED = "handed_on"
    #: The agent did not become ready; the task had not begun.
    NOT_READY = "not_ready"


class AttemptStep(StrEnum):
    """Transition of an attempt. Those with the name of a `Step` follow that step of the execution."""

    START = "start"
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"
    TIME_OUT = "time_out"
    LOSE_WORKER = "lose_worker"
    RELEASE = "release"
    NOT_READY = "not_ready"


class SessionState(StrEnum):
    """State of a session. A session expires by its TTL, and is destroyed by a command; both remove it."""

    OPEN = "open"
    EXPIRING = "expiring"
    DESTROYING = "destroying"
    DESTROYED = "destroyed"


class SessionStep(StrEnum):
    """Transition of a session. `USE` is an attach of a client or a new execution."""

    CREATE = "create"
    USE = "use"
    EXPIRE = "expire"
    DESTROY = "destroy"
    REMOVE = "remove"


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
    SETUP_FAILED = "setup_failed"
    RESULT_REJECTED = "result_rejected"
    #: A rerun asked the model something that is not in its recording.
    DIVERGED = "diverged"


StateT = TypeVar("StateT", bound=StrEnum)
StepT = TypeVar("StepT", bound=StrEnum)


@dataclass(frozen=True)
class LifeCycle(Generic[StateT, StepT]):
    """A state machine: `table` maps state and step to the next state; the state None is before the first step."""

    name: str
    table: Mapping[tuple[StateT | None, StepT], StateT]

    def step(self, state: StateT | None, taken: StepT) -> StateT:
        """Return the state after the step `taken`.

        Raises:
            IllegalStep: The table does not have this step; the message names state and step.
        """
        try:
            return self.table[(state, taken)]
        except KeyError:
            left = state.value if state else "none"
            raise IllegalStep(f"{self.name}: no step {taken.value!r} from state {left!r}") from None

    def allows(self, state: StateT | None, taken: StepT) -> bool:
        """Return whether the table has the step `taken` from `state`."""
        return (state, taken) in self.table

    @property
    def terminal(self) -> frozenset[StateT]:
        """The states without an outgoing step."""
        return frozenset(self.table.values()) - {state for state, _ in self.table if state is not None}


EXECUTION: LifeCycle[State, Step] = LifeCycle(
    "execution",
    {
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
    },
)

#: Every execution ends in exactly one of them.
TERMINAL: frozenset[State] = EXECUTION.terminal

#: An execution has at most one running attempt.
ATTEMPT: LifeCycle[AttemptState, AttemptStep] = LifeCycle(
    "attempt",
    {
        (None, AttemptStep.START): AttemptState.RUNNING,
        (AttemptState.RUNNING, AttemptStep.COMPLETE): AttemptState.COMPLETED,
        (AttemptState.RUNNING, AttemptStep.FAIL): AttemptState.FAILED,
        (AttemptState.RUNNING, AttemptStep.CANCEL): AttemptState.CANCELLED,
        (AttemptState.RUNNING, AttemptStep.TIME_OUT): AttemptState.TIMED_OUT,
        (AttemptState.RUNNING, AttemptStep.LOSE_WORKER): AttemptState.WORKER_LOST,
        (AttemptState.RUNNING, AttemptStep.RELEASE): AttemptState.RELEASED,
        (AttemptState.RUNNING, AttemptStep.NOT_READY): AttemptState.NOT_READY,
    },
)

SESSION: LifeCycle[SessionState, SessionStep] = LifeCycle(
    "session",
    {
        (None, SessionStep.CREATE): SessionState.OPEN,
        (SessionState.OPEN, SessionStep.USE): SessionState.OPEN,
        (SessionState.OPEN, SessionStep.EXPIRE): SessionState.EXPIRING,
        (SessionState.OPEN, SessionStep.DESTROY): SessionState.DESTROYING,
        (SessionState.EXPIRING, SessionStep.EXPIRE): SessionState.EXPIRING,
        # The executions of an expired session stay; a destroy also removes them.
        (SessionState.EXPIRING, SessionStep.DESTROY): SessionState.DESTROYING,
        (SessionState.DESTROYING, SessionStep.DESTROY): SessionState.DESTROYING,
        (SessionState.DESTROYING, SessionStep.EXPIRE): SessionState.DESTROYING,
        (SessionState.EXPIRING, SessionStep.REMOVE): SessionState.DESTROYED,
        (SessionState.DESTROYING, SessionStep.REMOVE): SessionState.DESTROYED,
    },
)
