"""Preparation of a run: model, workspace, warm server, and the conversation to continue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from ocf.events.command_payloads import Execute
from ocf.events.errors import SealError, Unavailable
from ocf.events.lifecycle import Reason
from ocf.events.optional_task_fields import RemoteMcp
from ocf.events.output import Draft, status_draft
from ocf.events.redaction import Redactor
from ocf.events.session_record import Session
from ocf.functions import workspace
from ocf.functions.core.agent_definitions import TaskDefinitions, narrowed
from ocf.functions.core.object_deletion import saved_key
from ocf.functions.core.session_store import Sessions
from ocf.functions.execute.agent.agent import Agent, PromptSpec
from ocf.functions.execute.agent.conversation_import import import_conversation
from ocf.functions.execute.agent.opencode_api import STRUCTURED_TOOL, FilePart
from ocf.functions.execute.agent.opencode_model import AgentModel
from ocf.functions.execute.agent.warm_server import WarmServer
from ocf.functions.execute.attempt.artifacts import CONVERSATION
from ocf.functions.execute.attempt.rerun_from_recording import Rerun, inputs_of, open_rerun
from ocf.functions.execute.attempt.setup_script import WorkspaceSetup
from ocf.functions.execute.attempt.workspace_source import WorkspaceInput
from ocf.functions.execute.context import WorkerContext
from ocf.functions.execute.egress_proxy import EgressProxy, Refused, rules
from ocf.functions.execute.inputs.agent_inputs import TaskInputs
from ocf.functions.execute.inputs.definition_sources import of_repository
from ocf.functions.execute.inputs.input_snapshot import InputKeeper
from ocf.functions.execute.inputs.mcp import InvalidHeader, remote_routes, start_servers
from ocf.functions.execute.inputs.output_check import with_schema
from ocf.functions.execute.model_proxy.played_call import Player
from ocf.functions.execute.sandbox.agent_host_client import Owner
from ocf.functions.execute.sandbox.process import AgentFailed, AgentNotReady
from ocf.functions.execute.secret_routes import METHODS, InvalidSecret, Route, SecretRoutes, injected
from ocf.functions.execute.secret_routes.route_recording import RoutePlayer, RouteRecorder
from ocf.functions.models.endpoint_check import BadEndpoint
from ocf.functions.models.model_target import ModelTarget
from ocf.functions.models.resolve import NoModel
from ocf.functions.observability import logs, metrics, tracing
from ocf.functions.recording.line_types import Inputs
from ocf.functions.recording.model_call_recorder import Recorder
from ocf.functions.settings.host_rules import InvalidRule

Emit = Callable[[Draft], Awaitable[None]]


class Preparation:
    """Everything a run needs before its first prompt; `close` releases it.

    Args:
        directory: scratch space of the execution.
        redactor: gets every secret of the execution.
        assign: gives the server's model proxy its target.
        on_activity: called while the setup runs.
    """

    def __init__(
        self,
        context: WorkerContext,
        task: Execute,
        directory: Path,
        redactor: Redactor,
        assign: Callable[[WarmServer, ModelTarget], None],
        on_activity: Callable[[], None],
    ) -> None:
        self._context = context
        self._task = task
        self._directory = directory
        self._redactor = redactor
        self._assign = assign
        self._on_activity = on_activity
        self._user: Owner | None = None
        self._cleanup = AsyncExitStack()
        #: Routes to secrets' origins and to remote MCP servers, if the task has any.
        self.routes: SecretRoutes | None = None
        #: Loopback URLs of remote MCP servers.
        self._mcp_urls: dict[str, str] = {}
        #: The server, once there is one.
        self.warm_server: WarmServer | None = None
        #: The workspace, once it is prepared.
        self.workspace: workspace.Prepared | None = None
        #: Whether the workspace's archive has the files that `.gitignore` excludes, too.
        self.keep_ignored = False
        #: The original, if this is a rerun.
        self.rerun: Rerun | None = None
        #: What the run begins from, once the workspace is prepared.
        self.inputs = Inputs()
        #: Keeps it for a rerun.
        self.input = InputKeeper(context.deps, task, directory)
        #: Where the workspace comes from, once known.
        self.origin: WorkspaceInput | None = None

    async def prepare(self, emit: Emit) -> tuple[WarmServer, Agent]:
        """Prepare server and workspace; return the server and its agent.

        Args:
            emit: publishes a draft.

        Raises:
            InvalidWorkspace: the workspace cannot be prepared.
            SealError: a sealed key cannot be opened.
            AgentFailed: the model cannot be reached, or the agent could not be started.
        """
        await self._context.boundary.admit(self._task.project_id)
        try:
            self.rerun = await open_rerun(self._context.deps, self._task)
            session = await self._session()
        except Unavailable as error:
            raise AgentNotReady(Reason.AGENT_ERROR, str(error)) from error
        target = self._target()
        task, tree = (self._task, None) if self.rerun is None else self.rerun.source(self._task)
        workspace_input = WorkspaceInput(self._context, task, session, self._directory, tree)
        await asyncio.to_thread(workspace_input.check)  # cheaper than starting OpenCode first
        task_inputs = TaskInputs(self._context, self._task, self._directory)
        self.keep_ignored, self.origin = workspace_input.keep_ignored, workspace_input
        try:
            if workspace_input.shared:
                unused = self._directory / "unused"
                self.workspace = await workspace_input.prepare(unused, self._hide, self._own_shared)
            definitions = await task_inputs.definitions(await self._repository(workspace_input), emit)
            files = await task_inputs.files()
            await emit(status_draft("getting OpenCode ready", "agent"))
            with tracing.phase("get agent"):
                warm_server = await self._acquire(target, definitions)
            agent = Agent(warm_server.server, self._prompt_spec(target, definitions, files), self._context.deps.clock)
            self._cleanup.push_async_callback(agent.close)
            if session is None and self.rerun is None and not workspace_input.shared:
                agent.open()  # a new conversation, in a directory that has booted
            await emit(status_draft(f"preparing the workspace ({workspace_input.label})", "workspace"))
            await self._prepare_workspace(workspace_input, warm_server, emit)
            assert self.workspace is not None
            self.inputs = inputs_of(workspace_input, self.workspace, session)
            self.input.begin(self.inputs, self.workspace, warm_server.server)
            self._assign(warm_server, target)
            agent.resume(await self._resume(warm_server, session))
            self.input.store()
            if self._task.mcp or definitions.commands:  # both can start processes before the model is asked
                await self.input.packed()
            if self._task.mcp:
                await start_servers(warm_server.server.client, self._task.mcp, self._mcp_urls, emit)
        except Unavailable as error:
            raise AgentNotReady(Reason.AGENT_ERROR, str(error)) from error  # S3 went away; the agent has done nothing
        words = f"asking {target.display_name}" if self.rerun is None else self.rerun.described(self._task)
        await emit(status_draft(words, "model"))
        return warm_server, agent

    async def _prepare_workspace(self, origin: WorkspaceInput, server: WarmServer, emit: Emit) -> None:
        """Fill the workspace and run the task's setup, or put what an earlier run of it made into the workspace."""
        setup = None
        if self._task.setup is not None and origin.tree is None:  # what a setup made is in the tree
            folder, store = self._directory / "setup", self._context.deps.store
            setup = WorkspaceSetup(self._task.setup, self._task.project_id, origin, store, folder)
        if self.workspace is None:
            with tracing.phase("prepare workspace"):
                layer = await setup.layer(emit) if setup is not None else None
                self.workspace = await origin.prepare(server.directory, self._hide, server.own, layer)
        if setup is None or setup.restored:
            return
        with tracing.phase("run setup"):
            await setup.run(server.server, self._context.deps.clock, emit, self._on_activity)
        await server.open_up()
        await setup.keep(self.workspace, emit)
        # The diff states the agent's work, not the setup's.
        self.workspace = await workspace.record_again(self.workspace)

    async def close(self) -> None:
        """Release the server and everything else that was acquired."""
        await self.input.close()
        await self._cleanup.aclose()
        if self._user is not None:
            await self._user.release()

    def _target(self) -> ModelTarget:
        try:
            configured = self._context.target
            target = configured(self._task) if self.rerun is None else self.rerun.target(self._task, configured)
        except (NoModel, BadEndpoint) as error:
            raise AgentFailed(Reason.MODEL_ERROR, str(error)) from None
        live = self.rerun is None or self.rerun.asked.live
        if live and self._task.limits.max_cost_usd is not None and target.prices is None and not target.offline:
            unknown = f"the price of {target.display_name} is not known, so limits.max_cost_usd cannot be enforced"
            raise AgentFailed(Reason.BUDGET_EXCEEDED, f"{unknown}; set limits.max_total_tokens instead")
        if target.api_key is not None:
            self._hide(target.api_key.get_secret_value())
        if self._task.output_schema is not None and target.enabled_tools is not None:
            target = replace(target, enabled_tools=(*target.enabled_tools, STRUCTURED_TOOL))
        return target

    def _hide(self, secret: str) -> None:
        """Redact a secret in output, and in logs until the attempt has ended."""
        self._redactor.add(secret)
        logs.SECRETS.add(secret)
        self._cleanup.callback(logs.SECRETS.remove, secret)

    async def _session(self) -> Session | None:
        task, deps = self._task, self._context.deps
        if task.session_id is None:
            return None
        found = await Sessions(deps.sessions, deps.clock).get(task.project_id, task.session_id)
        if found is None:
            raise workspace.InvalidWorkspace(f"session {task.session_id} was destroyed")
        return found

    async def _repository(self, source: WorkspaceInput) -> TaskDefinitions:
        """Return the definitions in the workspace, if the operator allows them.

        The server needs them at its start, in an empty directory. So the workspace is made once before for them alone.
        """
        if not self._context.deps.settings.allow_repository_config:
            return TaskDefinitions()
        if self.workspace is not None:
            return await of_repository(self.workspace.directory)
        first = await source.prepare(self._directory / "first", self._hide, _keep_owner)
        try:
            return await of_repository(first.directory)
        finally:
            await workspace.forget(first)

    async def _acquire(self, target: ModelTarget, definitions: TaskDefinitions) -> WarmServer:
        spec = replace(
            self._context.server_spec(self._task.limits),
            models=(self._model(target),),
            definitions=definitions,
            # OpenCode passes a session's denials to its subagents, and nothing else: they get the rest at the start.
            permissions=self._task.permissions if definitions or "ask" in self._task.permissions.values() else {},
        )
        try:
            allowed = rules(self._task.network.allow, self._context.deps.settings.network_allow)
        except InvalidRule as error:
            raise AgentFailed(Reason.AGENT_ERROR, f"network.allow: {error}") from None
        if allowed:
            proxy = await self._cleanup.enter_async_context(EgressProxy(allowed))
            spec = replace(spec, connect_ports=(proxy.port,), env=proxy.env())
        if self._task.secrets or any(isinstance(server, RemoteMcp) for server in self._task.mcp.values()):
            allow = self._context.deps.settings.network_allow
            self.routes = routes = SecretRoutes(allow, rerun=self.rerun is not None)
            await self._cleanup.enter_async_context(routes)
            self._hide(routes.token)
            self._open_mcp_routes(routes)
            urls = {f"OCF_SECRET_{name}_URL": self._open_route(routes, name) for name in self._task.secrets}
            spec = replace(spec, connect_ports=(*spec.connect_ports, routes.port), env={**spec.env, **urls})
        shared = self.workspace.directory if self.workspace is not None else None
        user, self._user = self._user, None  # the server owns the user from here on, also when starting it fails
        warm_server = await self._context.slots.acquire(spec, shared=shared, user=user)
        self.warm_server = warm_server
        metrics.slots_taken.labels("warm" if warm_server.warm else "cold").inc()
        self._cleanup.push_async_callback(warm_server.close)
        self._hide(warm_server.model_proxy.token)
        self._hide(warm_server.server.password)
        return warm_server

    def _open_mcp_routes(self, routes: SecretRoutes) -> None:
        """Open a route to each remote MCP server."""
        project = self._task.project_id
        try:
            for name, route in remote_routes(
                self._task.mcp, lambda sealed: self._context.opened(sealed, project).get_secret_value(), self._hide
            ).items():
                self._mcp_urls[name] = routes.open(route)
        except (SealError, InvalidHeader, Refused, InvalidRule) as error:
            raise AgentFailed(Reason.AGENT_ERROR, f"mcp: {error}") from None

    def _open_route(self, routes: SecretRoutes, name: str) -> str:
        """Open the route of a secret and return its URL."""
        secret = self._task.secrets[name]
        headers: dict[str, str] = {}
        values: list[str] = []
        try:
            if self.rerun is None:
                value = self._context.opened(secret.value, self._task.project_id).get_secret_value()
                header, values = injected(secret.inject.format, value)
                headers = {secret.inject.header: header}
            for each in values:
                self._hide(each)
            return routes.open(
                Route(name, secret.url, headers, Redactor(values), secret.methods or METHODS, secret.paths or ())
            )
        except (SealError, InvalidSecret, Refused, InvalidRule) as error:
            raise AgentFailed(Reason.AGENT_ERROR, f"secrets.{name}: {error}") from None

    def record_routes(self, recorder: Recorder | None, player: Player | None) -> None:
        """Have the routes recorded, and in a rerun answered by the recording."""
        if self.routes is not None:
            self.routes.recorder = None if recorder is None else RouteRecorder(recorder)
            self.routes.player = None if player is None else RoutePlayer(player)

    async def close_routes(self) -> None:
        """Close the routes of an agent that is gone: what it had open is recorded."""
        if self.routes is not None:
            await self.routes.close()

    async def _own_shared(self, folder: Path) -> None:
        self._user = await self._context.slots.user_of(folder)

    async def _resume(self, warm_server: WarmServer, session: Session | None) -> str | None:
        """Import the conversation to continue and return its OpenCode id; None for a new conversation."""
        key = None
        if self.rerun is not None:
            key = await self.rerun.conversation_key(self._context.deps.store, self._task.project_id)
        elif session is None:
            return None
        elif session.saved is not None:
            key = await saved_key(self._context.deps.store, session.ref, session.saved.conversation.name)
        elif session.from_execution_id is not None:
            key = f"{session.project_id}/{session.from_execution_id}/{CONVERSATION}"
            if await self._context.deps.store.head(key) is None:
                return None  # the source execution stored no conversation; only its workspace is forked
        if key is None:
            return None
        conversation = await self._context.deps.store.get(key)
        self.input.continued(conversation)
        return await import_conversation(warm_server.server, conversation)

    def _model(self, target: ModelTarget) -> AgentModel:
        model = replace(AgentModel.of(target), temperature=target.temperature, max_tokens=target.max_tokens)
        kinds = {one.modality for one in self._task.attachments}
        # OpenCode drops files that a model is not known to take.
        return model if target.facts is not None else model.taking(kinds)

    def _prompt_spec(
        self, target: ModelTarget, definitions: TaskDefinitions, files: tuple[FilePart, ...]
    ) -> PromptSpec:
        task = self._task
        return PromptSpec(
            model=self._model(target),
            permissions=narrowed(definitions.permissions_of(task.agent), task.permissions),
            enabled_tools=target.enabled_tools,
            system_prompt=with_schema(target.system_prompt, task.output_schema),
            answer_seconds=task.limits.answer_seconds,
            title=task.task_id or "task",
            agent=task.agent,
            variant=task.model.variant if task.model is not None else None,
            files=files,
            commands=definitions.commands,
            repeated_calls=self._context.deps.settings.repeated_calls,
        )


async def _keep_owner(_: Path) -> None:
    """Leave the files to this process's user."""
