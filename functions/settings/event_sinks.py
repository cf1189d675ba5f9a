"""External receivers of life-cycle events: the operator's table `EVENT_SINKS`, and the signing keys.

`acme=https://hooks.example.com/ocf, audit:*/ended=https://…, broker:*`: every fact of project `acme` goes to its URL,
the terminal facts of all projects go to `audit`, and everything goes to Knative's sink (`K_SINK`). With the URL
`kubernetes:events` facts become Kubernetes Events.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from ocf.events.event_types import TERMINAL_TYPES, TYPES

EVERY = "*"
#: Beginning of the names of sinks' consumers.
SINK_CONSUMERS = "sink-"
#: Seconds between the attempts of a delivery to a sink: twelve pauses over two days (Standard Webhooks 1.0.0,
#: Deliverability), each with a jitter of this share; and the time of all.
SINK_PAUSES = (1, 5, 30, 120, 600, 1_800, 3_600, 7_200, 14_400, 28_800, 43_200, 86_400)
SPREAD = 0.1
RETRIED_FOR = timedelta(seconds=sum(SINK_PAUSES) * (1 + SPREAD))
#: The `url` of a sink that is the cluster itself: Kubernetes Events in the pod's namespace.
KUBERNETES = "kubernetes:events"
ENDED = "ended"
#: Secret of a Standard Webhooks endpoint: `whsec_` and 24 to 64 random bytes in base64.
_PREFIX = "whsec_"
_KEY_BYTES = range(24, 65)
_ROW = re.compile(
    r"(?:(?P<name>[a-z0-9-]{1,40}):)?(?P<project>\*|[a-z0-9-]{1,63})(?:/(?P<facts>[a-z_+]+))?(?:=(?P<url>https?://\S+|kubernetes:events))?"
)
_FACTS = tuple(dict.fromkeys(spec.verb for spec in TYPES.values() if spec.kind == "evt"))


@dataclass(frozen=True)
class Sink:
    """One receiver. `project` `*` means all projects, empty `facts` all facts, `url` None Knative's sink (`K_SINK`)."""

    name: str
    project: str
    facts: tuple[str, ...] = ()
    url: str | None = None

    @property
    def subjects(self) -> tuple[str, ...]:
        """NATS subjects of the sink's facts."""
        return tuple(f"ocf.evt.{self.project}.*.{fact}" for fact in self.facts or ("*",))


def sinks(text: str) -> tuple[Sink, ...]:
    """Parse the table.

    Raises:
        ValueError: A row is invalid. The message names it without its URL, which may contain a password.
    """
    found = [_sink(row) for row in filter(None, map(str.strip, text.split(",")))]
    for sink in found:
        if [other.name for other in found].count(sink.name) > 1:
            raise ValueError(f"two sinks are called {sink.name!r}; name each one: NAME:PROJECT=URL")
    return tuple(found)


def _sink(row: str) -> Sink:
    match = _ROW.fullmatch(row)
    if match is None:
        raise ValueError(
            f"{row.split('=')[0]!r} is not the beginning of [NAME:]PROJECT[/FACT+FACT][=URL], "
            "for example acme/ended=https://example.com/hook"
        )
    facts: list[str] = []
    for fact in filter(None, (match["facts"] or "").split("+")):
        if fact != ENDED and fact not in _FACTS:
            raise ValueError(f"{fact!r} is not one of {ENDED}, {', '.join(_FACTS)}")
        facts += [spec.verb for spec in TERMINAL_TYPES.values()] if fact == ENDED else [fact]
    project = match["project"]
    name = match["name"] or ("all" if project == EVERY else project)
    return Sink(name, project, tuple(dict.fromkeys(facts)), match["url"])


def keys(text: str) -> Mapping[str, tuple[bytes, ...]]:
    """Parse the signing keys: `acme=whsec_… whsec_…,audit=whsec_…`. A sink has two keys during a rotation.

    Returns:
        The keys by name of the sink.

    Raises:
        ValueError: A key is malformed. The message names the sink, never the key.
    """
    found: dict[str, tuple[bytes, ...]] = {}
    for row in filter(None, map(str.strip, text.split(","))):
        name, _, secrets = row.partition("=")
        if not secrets:
            raise ValueError("a row is not NAME=whsec_…")
        found[name.strip()] = tuple(_key(name.strip(), secret) for secret in secrets.split())
    return found


def _key(name: str, secret: str) -> bytes:
    try:
        if not secret.startswith(_PREFIX):
            raise ValueError
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (ValueError, binascii.Error):
        raise ValueError(f"{name[:40]}: not {_PREFIX} and base64") from None
    if len(key) not in _KEY_BYTES:
        raise ValueError(f"{name[:40]}: {len(key)} bytes, must be 24 to 64")
    return key


def check(served: Sequence[Sink], signing: Mapping[str, tuple[bytes, ...]], k_sink: str | None) -> None:
    """Check the sinks that a process serves.

    Raises:
        ValueError: A sink has no URL; or a sink with a URL has no key, so that its receiver could not verify events.
    """
    for sink in served:
        if sink.url is None and not k_sink:
            raise ValueError(f"EVENT_SINKS: {sink.name!r} has no URL, and K_SINK is not set")
        if sink.url not in (None, KUBERNETES) and sink.name not in signing:
            raise ValueError(f"EVENT_SINK_SECRETS: no secret for the sink {sink.name!r}")
