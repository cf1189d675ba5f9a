"""Routes of forge credentials: create, list, delete. Their secrets are sealed at once and never shown."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field, StringConstraints, model_validator
from starlette.responses import Response

from ocf.events.base_model import Model, ProjectId
from ocf.events.fact_payloads import FieldError
from ocf.events.task_forge_fields import ApiUrl, CredentialName, ForgeKind
from ocf.functions.forges.credentials import Credential
from ocf.functions.forges.http import ForgeRefused
from ocf.functions.gateway import response_schemas
from ocf.functions.gateway.context import AskedProject, Caller, Gw
from ocf.functions.gateway.problems import Problem, check_count, invalid
from ocf.functions.gateway.request_body import JSON, StrictRoute, documented, read
from ocf.functions.gateway.sealed_secrets import need

router = APIRouter(tags=["credentials"], route_class=StrictRoute)

_Token = Annotated[str, StringConstraints(min_length=8, max_length=2_000, pattern=r"^[\x21-\x7e]+$")]
_Pem = Annotated[
    str, StringConstraints(min_length=64, max_length=10_000, pattern=r"^-----BEGIN [A-Z ]*PRIVATE KEY-----\s")
]


#: Credentials of a project.
MAX_CREDENTIALS = 100


class CreateCredential(Model):
    """A token of a forge, or a GitHub App with its installation. A credential of the same name is replaced."""

    name: CredentialName
    project_id: ProjectId | None = None
    forge: ForgeKind
    api_url: Annotated[ApiUrl | None, Field(description="of a forge of your own; required for gitea")] = None
    token: Annotated[_Token | None, Field(repr=False)] = None
    app_id: Annotated[int, Field(ge=1)] | None = None
    installation_id: Annotated[int, Field(ge=1)] | None = None
    private_key: Annotated[_Pem | None, Field(repr=False)] = None

    @model_validator(mode="after")
    def _one_kind(self) -> CreateCredential:
        app = (self.app_id, self.installation_id, self.private_key)
        if (self.token is None) == (None in app) or (self.token is not None and app != (None, None, None)):
            raise ValueError("needs either token, or app_id, installation_id and private_key")
        if self.token is None and self.forge != "github":
            raise ValueError("app_id is for github only")
        return self


class CredentialView(response_schemas.View):
    """A credential without its secret."""

    name: str
    project_id: str
    forge: ForgeKind
    api_url: str
    kind: Annotated[str, Field(description="`token` or `app`")]
    app_id: int | None = None
    installation_id: int | None = None
    key_id: Annotated[str, Field(description="id of the encryption key that it is sealed with")]
    created_at: datetime

    @classmethod
    def of(cls, found: Credential) -> CredentialView:
        """Return the view of a credential."""
        sealed, kind = (found.token, "token") if found.token is not None else (found.private_key, "app")
        about = {"kind": kind, "key_id": sealed.kid if sealed is not None else "", "api_url": found.address.api_url}
        return cls.model_validate({**dict(found), **about})


class CredentialList(response_schemas.View):
    """The credentials of a project."""

    credentials: list[CredentialView]


@router.post(
    "/credentials",
    status_code=201,
    response_model=CredentialView,
    responses={200: {"model": CredentialView}},
    openapi_extra=documented(CreateCredential),
)
async def create(request: Request, gateway: Gw, caller: Caller) -> Response:
    """Seal and store a credential: 201, or 200 when it replaces one."""
    body = await read(request, CreateCredential)
    project = caller.project_or(body.project_id, gateway.settings.default_project)
    sealed = {
        field: need(gateway.deps.keyring, field).seal(value, project)
        for field in ("token", "private_key")
        if (value := getattr(body, field)) is not None
    }
    made = Credential.model_validate(
        {
            **body.model_dump(exclude=set(sealed)),
            **sealed,
            "project_id": project,
            "created_at": gateway.deps.clock.now(),
        }
    )
    try:
        view = CredentialView.of(made)
        made.address.check()
    except ForgeRefused as error:
        raise invalid([FieldError(field="api_url", message=str(error))]) from None
    found = await gateway.deps.credentials.list(project)
    check_count(project, "credentials", [one.name for one in found], made.name, MAX_CREDENTIALS)
    replaced = await gateway.deps.credentials.put(made)
    return Response(
        view.model_dump_json(exclude_none=True), 200 if replaced else 201, {"Cache-Control": "no-store"}, JSON
    )


@router.get("/credentials", response_model=CredentialList, response_model_exclude_none=True)
async def credentials(gateway: Gw, caller: Caller, project_id: AskedProject) -> CredentialList:
    """List the credentials of a project, without their secrets."""
    project = caller.project_or(project_id, gateway.settings.default_project)
    found = await gateway.deps.credentials.list(project)
    return CredentialList(credentials=[CredentialView.of(one) for one in found])


@router.delete("/credentials/{name}", status_code=204, response_class=Response)
async def delete(gateway: Gw, caller: Caller, name: CredentialName, project_id: AskedProject) -> Response:
    """Remove a credential. Executions that name it fail from then on."""
    project = caller.project_or(project_id, gateway.settings.default_project)
    if not await gateway.deps.credentials.delete(project, name):
        raise Problem(404, "unknown-credential", f"no credential {name} in project {project}")
    return Response(status_code=204)
