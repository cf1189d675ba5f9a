"""Route of reruns: an ended execution is run again from its recording."""

from __future__ import annotations

import uuid

from fastapi import APIRouter, Request
from starlette.responses import Response

from ocf.events.execution_ref import ExecutionRef
from ocf.events.lifecycle import State
from ocf.events.optional_task_fields import Rerun
from ocf.functions.gateway import response_schemas
from ocf.functions.gateway.context import Execution, Gw, Trace
from ocf.functions.gateway.problems import Problem
from ocf.functions.gateway.request_body import StrictRoute, documented, read_optional
from ocf.functions.gateway.request_schemas import ExecuteTask, RunAgain
from ocf.functions.gateway.routes.tasks import submitted
from ocf.functions.gateway.sealed_secrets import seal_task

router = APIRouter(tags=["tasks"], route_class=StrictRoute)

#: Members of the body that are the rerun's, not the task's.
_RERUN = {"until", "then", "on_divergence"}


@router.post(
    "/tasks/{execution_id}/rerun",
    status_code=202,
    response_model=response_schemas.RerunSubmitted,
    openapi_extra=documented(RunAgain, required=False),
)
async def rerun(request: Request, gateway: Gw, found: Execution, trace: Trace) -> Response:
    """Run an ended execution again: the model's answers come from its recording, without a key and without cost.

    The new execution has the task of the original with what the body changes. 409 while the original has not ended.
    """
    body = await read_optional(request, RunAgain) or RunAgain()
    if not found.ended:
        raise Problem(409, "not-ended", f"the execution is {found.state}; only an ended one can be run again")
    given = body.model_dump(by_alias=True, exclude_defaults=True)
    asked = Rerun(of=found.execution, **{name: given.pop(name) for name in _RERUN & set(given)})
    execution = str(uuid.uuid4())
    ids = {"execution_id": execution, "project_id": found.project}
    task = ExecuteTask.model_validate({**given, **ids, "rerun": asked.model_dump(exclude_defaults=True)})
    task = seal_task(task, found.project, gateway.deps.keyring)
    await gateway.submit(task, ExecutionRef(found.project, execution), trace)
    return submitted(found.project, execution, State.PENDING, rerun_of=found.execution)
