"""Contents of a bundle: a tar of `bundle.json` and of objects of an archive, each within a limit."""

from __future__ import annotations

import tarfile
from typing import Annotated

from pydantic import Field, ValidationError

from ocf.events.archive_manifest import EVENTS, MANIFEST
from ocf.events.base_model import Model
from ocf.events.errors import InvalidEvent
from ocf.events.input_manifest import INPUT, INPUT_CONVERSATION, TREE_BYTES
from ocf.events.untrusted_json import KIB, MIB, JsonLimit, parse_json
from ocf.functions.recording.line_types import NAME as RECORDING

VERSION = 1
INDEX, OUTPUT, PATCH, TREE = "bundle.json", "output.ndjson.gz", "workspace.patch", "input.tar.zst"
#: Objects of a bundle in their order, and the bytes of each. The first two are always there.
LIMITS = {
    MANIFEST: 4 * MIB,
    EVENTS: 40 * MIB,
    INPUT: 256 * KIB,
    INPUT_CONVERSATION: 64 * MIB,
    RECORDING: 128 * MIB,
    OUTPUT: 128 * MIB,
    PATCH: 64 * MIB,
    TREE: TREE_BYTES + 16 * MIB,
}
#: Bytes of a bundle.
BUNDLE_BYTES = 512 * MIB
INDEX_BYTES = 64 * KIB
_INDEX = JsonLimit(bytes=INDEX_BYTES, depth=6, values=1_000)


class BadBundle(InvalidEvent):
    """The bundle cannot be used; the message names the entry."""


class Entry(Model):
    """An object of a bundle."""

    name: str
    size: Annotated[int, Field(ge=0, le=BUNDLE_BYTES)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Index(Model):
    """The first entry: the execution that it was made of, and everything else that is there."""

    version: int
    project_id: Annotated[str, Field(max_length=63)]
    execution_id: Annotated[str, Field(max_length=36)]
    objects: Annotated[list[Entry], Field(max_length=100)]


def read_index(data: bytes) -> Index:
    """Return the index.

    Raises:
        BadBundle: the data is not an index, has a later version, or names an object that no bundle has.
    """
    try:
        raw = parse_json(data, _INDEX, INDEX)
        if isinstance(raw, dict) and raw.get("version") not in (None, VERSION):
            raise BadBundle(f"{INDEX}: version {str(raw['version'])[:20]}; this release reads version {VERSION}")
        index = Index.model_validate(raw)
    except (ValidationError, InvalidEvent) as error:
        if isinstance(error, BadBundle):
            raise
        raise BadBundle(f"{INDEX} cannot be read; export the execution again with `ocf export`") from None
    names = [entry.name for entry in index.objects]
    if names != [name for name in LIMITS if name in names] or names[:2] != [MANIFEST, EVENTS]:
        raise BadBundle(f"{INDEX}: objects must be of {', '.join(LIMITS)}, in this order, the first two always")
    for entry in index.objects:
        if entry.size > LIMITS[entry.name]:
            raise BadBundle(f"{entry.name}: {entry.size} bytes; at most {LIMITS[entry.name]}")
    return index


def header(name: str, size: int) -> bytes:
    """Return the tar header of an entry."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.GNU_FORMAT)


def padding(size: int) -> bytes:
    """Return what follows an entry's data."""
    return bytes(-size % tarfile.BLOCKSIZE)
