"""A worker on the durable consumer `completed-worker` of OCF_EVENTS: replace `handle` with your own work.

example_worker.py create    create the consumer, which KEDA asks for, and end
example_worker.py           handle facts until SIGTERM; the one in hand is finished
"""

import asyncio
import json
import os
import signal
import sys

import nats
from nats.js.api import AckPolicy, ConsumerConfig

STREAM, CONSUMER, SUBJECT = "OCF_EVENTS", "completed-worker", "ocf.evt.*.*.completed"
#: Seconds until a fact that nobody acknowledged is delivered again: longer than `handle` takes.
ACK_WAIT = 60


async def handle(fact: dict) -> None:
    """Do the work for one fact; it may come a second time, with the same id."""
    print(fact["id"], fact["subject"], flush=True)


async def main(create: bool) -> None:
    """Take one fact after the other."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    connection = await nats.connect(os.environ["NATS_URL"], user_credentials=os.environ["NATS_CREDS"])
    config = ConsumerConfig(
        durable_name=CONSUMER, filter_subject=SUBJECT, ack_policy=AckPolicy.EXPLICIT, ack_wait=ACK_WAIT
    )
    facts = await connection.jetstream().pull_subscribe(SUBJECT, CONSUMER, STREAM, config)
    while not create and not stop.is_set():
        try:
            [message] = await facts.fetch(1, timeout=1)
        except TimeoutError:
            continue
        await handle(json.loads(message.data))
        await message.ack()
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main("create" in sys.argv))
