"""Three NATS servers, every stream in three copies: nodes are killed, stopped, cut off and filled under load."""

from __future__ import annotations

import random
from typing import Any

from faults.fault_pairs import Pair
from faults.inject import Injector
from faults.run import Options, bench, one, verdict

_FAULTS = ("kill9", "kill9", "kill9", "cut", "stop", "restart", "full")


async def cluster(options: Options) -> dict[str, Any]:
    """Hurt one node after the other; the next only when all streams are whole again."""
    chance = random.Random(options.seed)
    async with bench(options) as made:
        nodes = list(made.system.nodes)
        chance.shuffle(nodes)
        made.load.begin()
        done = []
        for number, fault in enumerate(_FAULTS):
            node = nodes[number % len(nodes)]
            injector = Injector(made.system, chance, options.stop_seconds)
            done.append(
                await one(made, injector, Pair(node, fault), f"{number + 1}/{len(_FAULTS)}", f"{node}-{number}")
            )
        return await verdict(made, done, options)
