"""The input of an execution: the object `input.json` of its archive, and `input` of its manifest."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from ocf.events.base_model import ExecutionId, ForwardCompatible, SessionId
from ocf.events.untrusted_json import MIB

#: Objects of the archive: this description, and the conversation that the execution continued.
INPUT, INPUT_CONVERSATION = "input.json", "input-conversation.json"
#: Bytes of the files of an input tree that are kept.
TREE_BYTES = 256 * MIB

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class ExecutionInput(ForwardCompatible):
    """The exact input of an execution, as far as it is known. Digests are SHA-256 in hex.

    `tree` is the digest of the files before the first prompt; they are the object `<project>/inputs/<tree>.tar.zst`.
    """

    version: int = 1
    source: str = Field("", description="kind of the workspace's source")
    commit: str | None = Field(None, description="the commit that a clone checked out")
    clone: bool = Field(False, description="`tree` leaves out what git writes differently in each clone")
    tree: Sha256 | None = None
    tree_bytes: int = Field(0, ge=0, description="bytes of the stored files, compressed")
    left_out: int = Field(0, ge=0, description="files that cannot be stored: links that lead out, sockets, devices")
    missing: str | None = Field(None, description="why the files are not stored")
    session_id: SessionId | None = None
    workspace_of: ExecutionId | None = Field(None, description="the execution whose stored workspace it began from")
    conversation_of: ExecutionId | None = Field(None, description="the execution whose conversation it continued")
    conversation: Sha256 | None = Field(None, description="of that conversation")
    agent: str = Field("", description="agent and version")
    catalog: Sha256 | None = Field(None, description="of the catalog of models")
    configuration: Sha256 | None = Field(None, description="of the agent's configuration, without its addresses")
    image: str | None = Field(None, description="digest of the container image (`IMAGE_DIGEST`)")
    environment: list[str] = Field(default_factory=list, description="names of the variables that the agent sees")
