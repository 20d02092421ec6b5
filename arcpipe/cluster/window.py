"""An executor that hands on as many tasks as there are threads; the others wait at the client."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

Task = tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class WindowExecutor(Executor):
    """Hand tasks to `inner`, never more at a time than `widen` was told; tasks go to whoever has joined by then.

    Dask deals tasks that ask for a resource to the workers at once: a worker that joins later would have to steal, and
    a worker that dies takes down every task that waited at it (a few such deaths make a task fail), not only the one
    that it was doing. Tasks that wait here are safe from both.
    """

    def __init__(self, inner: Executor) -> None:
        self._inner = inner
        self._width = 0
        self._at_work = 0
        self._waiting: deque[Task] = deque()
        self._lock = threading.Lock()
        self._given_up = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            self._waiting.append((future, fn, args, kwargs))
        self._hand_on()
        return future

    def widen(self, width: int) -> None:
        """Set how many tasks may be with the workers."""
        with self._lock:
            self._width = width
        self._hand_on()

    def give_up(self) -> None:
        """Cancel what has not begun, and whatever is submitted later: nobody is there to do it."""
        with self._lock:
            self._given_up = True
        self._hand_on()

    def _hand_on(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or not (self._given_up or self._at_work < self._width):
                    return
                future, fn, args, kwargs = self._waiting.popleft()
                begin = not (self._given_up or future.cancelled())
                self._at_work += begin
            if not begin:
                _cancel(future)
                continue
            try:
                inner = self._inner.submit(fn, *args, **kwargs)
            except Exception:  # the client is closed
                self._end(future)
                self.give_up()
                continue
            future.add_done_callback(partial(_cancel_with, inner))
            inner.add_done_callback(partial(self._end, future))

    def _end(self, future: Future[Any], inner: Future[Any] | None = None) -> None:
        """Pass on what became of a task, and hand on the next one."""
        with self._lock:
            self._at_work -= 1
        if inner is None or inner.cancelled():
            ours = future.cancelled()  # whoever waits for it cancelled it; else the scheduler has gone, with all tasks
            _cancel(future)
            if not ours:
                self.give_up()
        elif future.set_running_or_notify_cancel():
            error = inner.exception()
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(inner.result())
        self._hand_on()


def _cancel_with(inner: Future[Any], future: Future[Any]) -> None:
    if future.cancelled():
        inner.cancel()


def _cancel(future: Future[Any]) -> None:
    """Cancel a future and wake those who wait for it."""
    if future.cancel():
        future.set_running_or_notify_cancel()
