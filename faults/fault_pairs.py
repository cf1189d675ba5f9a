"""The table: every part that can be hurt, every way to hurt it. The seed says which pairs run, and in which order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

VICTIMS = (
    *("submit", "execute", "cancel", "cleanup", "archive", "history", "dispatcher", "gateway"),
    *("nats", "s3", "database", "model"),
)
FAULTS = {
    "kill9": "SIGKILL; started again after 2 s, as a supervisor would",
    "lost": "its machine loses power: the cable is pulled, then SIGKILL, nobody is told; a new one after 3 s",
    "stop": "SIGSTOP, 30 s, SIGCONT",
    "restart": "SIGTERM and a new process",
    "cut": "its cable is pulled at the bridge for 15 s: silence in both directions, no refusal",
    "full": "no byte left on its disk for 10 s (its log, its temporary files, its state or store)",
    "slow": "8 writes a second on its disk for 12 s, each waited for",
    "creds": "started again with wrong credentials for 8 s, then with the right ones",
    "skew": "its clock is minutes off for 10 s, then right again (it is started anew with each)",
}


@dataclass(frozen=True)
class Pair:
    """One cell of the table."""

    victim: str
    fault: str

    @property
    def name(self) -> str:
        return f"{self.victim}:{self.fault}"

    @property
    def project(self) -> str:
        """Executions that are submitted while it lasts belong to this project."""
        return f"{self.victim}-{self.fault}"


ALL = tuple(Pair(victim, fault) for victim in VICTIMS for fault in FAULTS)


def chosen(only: str, *, quarter: bool, seed: int, share: str = "1/1") -> list[Pair]:
    """The pairs to run, in the seed's order.

    `only` is a comma-separated list of `victim:fault`, `victim` or `:fault`; `share` is `2/3` for the second of three
    runs that share the table.

    Raises:
        ValueError: it names what is not in the table.
    """
    pairs = list(ALL)
    if only:
        pairs = [pair for word in only.split(",") for pair in _named(word.strip())]
    chance = random.Random(seed)
    chance.shuffle(pairs)
    number, of = (int(word) for word in share.split("/"))
    pairs = pairs[number - 1 :: of]
    return pairs[: max(1, len(pairs) // 4)] if quarter else pairs


def _named(word: str) -> Sequence[Pair]:
    victim, _, fault = word.partition(":")
    found = [pair for pair in ALL if victim in ("", pair.victim) and fault in ("", pair.fault)]
    if not found:
        raise ValueError(f"{word!r} is in no row: victims are {', '.join(VICTIMS)}; faults {', '.join(FAULTS)}")
    return found
