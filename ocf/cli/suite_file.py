"""The file of a suite: recorded executions, and what must be the same when they are run again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from ocf.events.base_model import ExecutionId, Model
from ocf.events.envelope import field_errors
from ocf.events.errors import OcfError
from ocf.events.untrusted_json import MIB

Part = Literal["diff", "result", "calls"]
Parts = Annotated[list[Part], Field(min_length=1)]
OnDivergence = Literal["fail", "nearest"]
_USUAL: tuple[Part, ...] = ("diff", "result")
_FILE_BYTES, _ENTRIES = MIB, 1_000


class InvalidSuite(OcfError):
    """The suite cannot be run."""


class Entry(Model):
    """A recorded execution: one of the project, or a bundle beside the file."""

    name: str = Field(min_length=1, max_length=200)
    execution: ExecutionId | None = None
    bundle: str | None = Field(None, min_length=1)
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    same: Parts | None = None
    on_divergence: OnDivergence | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Entry:
        if (self.execution is None) == (self.bundle is None):
            raise ValueError("needs either `execution` (an id) or `bundle` (a file)")
        if (self.bundle is None) != (self.sha256 is None):
            raise ValueError("`sha256` belongs to `bundle`: each needs the other")
        return self


class Suite(Model):
    """The file. `same` and `on_divergence` hold for the entries that have none of their own."""

    same: Parts = Field(default_factory=lambda: list(_USUAL))
    on_divergence: OnDivergence = "fail"
    executions: list[Entry] = Field(min_length=1, max_length=_ENTRIES)

    @model_validator(mode="after")
    def _unique(self) -> Suite:
        names = [one.name for one in self.executions]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"the name {twice!r} is there twice in `executions`")
        return self


def read(file: Path) -> Suite:
    """Return the suite of a YAML file.

    Raises:
        InvalidSuite: It is too large, no YAML, or has a wrong field; names the field.
    """
    with file.open("rb") as source:
        text = source.read(_FILE_BYTES + 1)
    if len(text) > _FILE_BYTES:
        raise InvalidSuite(f"{file}: a suite has at most {_FILE_BYTES} bytes")
    try:
        given = yaml.safe_load(text.decode())
        if not isinstance(given, dict):
            raise InvalidSuite(f"{file}: must be a YAML object with `executions`")
        return Suite.model_validate(given)
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise InvalidSuite(f"{file}: no YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        wrong = (f"{one.field}: {one.message.removeprefix('Value error, ')}" for one in field_errors(error)[:5])
        raise InvalidSuite(f"{file}: {'; '.join(wrong)}") from None


def bundle_of(file: Path, entry: Entry) -> Path:
    """Return the bundle of an entry, a path from the suite's folder.

    Raises:
        InvalidSuite: It is no file, or not the one with that SHA-256.
    """
    bundle = file.parent / str(entry.bundle)
    if not bundle.is_file():
        raise InvalidSuite(f"bundle: {bundle} is not a file")
    with bundle.open("rb") as source:
        found = hashlib.file_digest(source, "sha256").hexdigest()
    if found != entry.sha256:
        raise InvalidSuite(f"sha256: {bundle} has {found}, the suite says {entry.sha256}")
    return bundle
