"""Numbers that a running task tells whoever waits for it: over Dask's events, so also from another machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from distributed import Client

TELL_EVERY_S = 0.5


@contextmanager
def listening(client: Client | None, heard: Callable[[int], None]) -> Iterator[str]:
    """Call `heard`, in a thread of the client, with what a task tells; yields the topic to give to that task.

    Without a client, whose tasks run in this process, nothing is heard.
    """
    topic = f"arcpipe-{uuid4().hex}"
    if client is None:
        yield topic
        return
    client.subscribe_topic(topic, lambda event: heard(event[1]))
    try:
        yield topic
    finally:
        client.unsubscribe_topic(topic)


def teller(topic: str) -> Callable[[int], None]:
    """What a task calls with its number, as often as it likes: some are passed on, twice a second."""
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:  # not in a worker
        return lambda number: None
    last = time.monotonic()

    def tell(number: int) -> None:
        nonlocal last
        if time.monotonic() - last >= TELL_EVERY_S:
            last = time.monotonic()
            worker.log_event(topic, number)

    return tell
