"""Objects in a bucket: get, put, create if absent, copy, list, delete. Only this file imports obstore.

Requests that fail for a reason that passes (no answer, 429, 5xx) are tried again with growing pauses for
`ARCPIPE_REMOTE_PATIENCE` seconds (120), so that a run outlives a short outage; then they end in a `RemoteStoreError`.
A service that never answered gets `FIRST_ANSWER_S` only: its address is more likely wrong than its cable is cut.

Credentials and endpoint are the environment's (AWS_*, GOOGLE_*, AZURE_*) or the machine's role. They are kept
nowhere, and no message shows them. Missing objects raise FileNotFoundError, existing ones FileExistsError.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import operator
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from arcpipe.errors import ArcpipeError, ConfigError, RemoteStoreError, install
from arcpipe.storage.outages import reason_of

T = TypeVar("T")

SCHEMES = ("s3", "gs", "az")
FIRST_ANSWER_S = 8.0
PATIENCE_S = 120.0
LEAVING_S = 5.0
BLOCK_BYTES = 2**22  # of a large object that is read in pieces
SINGLE_PUT_BYTES = 2**24  # more is sent in several parts at once
CONNECTIONS = 8  # requests at once where many small objects are read or written

_answered: set[str] = set()  # roots that have answered this process
_leaving = threading.Event()
_hurry: ContextVar[bool] = ContextVar("arcpipe-hurry", default=False)


@dataclass(frozen=True)
class Address:
    """One object, or a prefix of objects: `root` is "s3://bucket", `key` the rest without slashes at its ends."""

    root: str
    key: str

    def __str__(self) -> str:
        return f"{self.root}/{self.key}"

    def at(self, name: str) -> Address:
        """What has this name below the prefix; the prefix itself where it is empty."""
        return Address(self.root, "/".join(filter(None, (self.key, name))))


def get(address: Address, at_most: int | None = None) -> bytes:
    """A whole object. Raises ValueError, before it is fetched, where it has more than `at_most` bytes."""

    def read(bucket: Any) -> bytes:
        answer = bucket.get(address.key)
        if at_most is not None and answer.meta["size"] > at_most:
            raise ValueError(f"{answer.meta['size']} bytes")
        return bytes(answer.bytes())

    return patiently(address, read)


def tag_of(address: Address) -> str:
    """The tag that the service gives this version of an object."""
    return patiently(address, lambda bucket: bucket.head(address.key))["e_tag"] or ""


def exists(address: Address) -> bool:
    """Whether there is an object of just this key."""
    try:
        tag_of(address)
    except FileNotFoundError:
        return False
    return True


def put(address: Address, data: Any) -> None:
    """Write an object, replacing an older one at once. `data`: bytes, or the Path of a local file."""
    large = not isinstance(data, bytes) and data.stat().st_size > SINGLE_PUT_BYTES
    patiently(address, lambda bucket: bucket.put(address.key, data, use_multipart=large))


def create(address: Address, data: bytes) -> str:
    """Write an object that must not exist (`If-None-Match: *`). Returns its tag. Raises FileExistsError.

    `data` is this writer's own: where an answer was lost and the object is there, its content says whether we wrote it.
    """
    return _conditional_put(address, data, "create")


def _conditional_put(address: Address, data: bytes, mode: Any) -> str:
    tries = 0

    def write(bucket: Any) -> str:
        nonlocal tries
        tries += 1
        return str(bucket.put(address.key, data, mode=mode, use_multipart=False)["e_tag"])

    try:
        return patiently(address, write)
    except FileExistsError:
        if tries > 1 and get(address) == data:
            return tag_of(address)
        raise


def swap(address: Address, data: bytes, tag: str) -> str:
    """Replace the version `tag` of an object (`If-Match`); raises FileExistsError where it is another by now.

    As for `create`, `data` is this writer's own.
    """
    return _conditional_put(address, data, {"e_tag": tag})


def copy(source: Address, target: Address) -> None:
    """Copy an object inside its bucket, without moving its bytes through here."""
    patiently(source, lambda bucket: bucket.copy(source.key, target.key))


def listing(prefix: Address) -> Iterator[tuple[str, int]]:
    """Key (whole) and bytes of every object below a prefix, in order of keys."""
    for batch in patiently(prefix, lambda bucket: list(bucket.list(_below(prefix), chunk_size=1000))):
        for about in batch:
            yield about["path"], about["size"]


def folders(prefix: Address) -> list[str]:
    """Keys (whole) of the prefixes that lie one step below a prefix."""
    found = patiently(prefix, lambda bucket: bucket.list_with_delimiter(_below(prefix)))
    return sorted(key.rstrip("/") for key in found["common_prefixes"])


def any_below(prefix: Address) -> bool:
    """Whether there is an object below a prefix."""
    return patiently(prefix, lambda bucket: any(map(len, bucket.list(_below(prefix), chunk_size=1))))


def delete_below(prefix: Address) -> None:
    """Delete every object below a prefix."""
    delete(prefix.root, [key for key, _ in listing(prefix)])


def delete(root: str, keys: Iterable[str]) -> None:
    """Delete objects; those that are not there are no error."""
    chosen = list(keys)
    for start in range(0, len(chosen), 1000):
        some = chosen[start : start + 1000]
        patiently(Address(root, some[0]), operator.methodcaller("delete", some))


def sha256(address: Address) -> str:
    """Hash an object without holding it in memory."""

    def read(bucket: Any) -> str:
        digest = hashlib.sha256()
        for block in bucket.get(address.key).stream(min_chunk_size=BLOCK_BYTES):
            digest.update(bytes(block))
        return digest.hexdigest()

    return patiently(address, read)  # all over again where the connection broke


def each(act: Callable[[T], Any], items: Iterable[T]) -> list[Any]:
    """Apply `act` to all items, a few at once: waiting for answers is most of the time."""
    with ThreadPoolExecutor(CONNECTIONS, "arcpipe-objects") as pool:
        return list(pool.map(act, items))


class Patience:
    """Decides, for one request, whether a failed try is followed by another one."""

    def __init__(self, address: Address) -> None:
        self._address, self._started, self._pause = address, time.monotonic(), 0.1

    def answered(self) -> None:
        _answered.add(self._address.root)

    def pause_after(self, error: Exception) -> float:
        """Seconds to wait before the next try. Raises what a caller or a user understands where there is none."""
        reason = reason_of(error, str(self._address))
        if not reason.passes:
            _answered.add(self._address.root)
            raise reason.error from None
        waited = time.monotonic() - self._started
        limit = patience_s() if self._address.root in _answered else min(FIRST_ANSWER_S, patience_s())
        pause, self._pause = self._pause * random.uniform(0.5, 1.5), min(2 * self._pause, 4.0)
        if waited + pause > limit:
            at = endpoint()
            advice = "check AWS_ENDPOINT_URL" if at else "for a service other than Amazon's, set AWS_ENDPOINT_URL"
            where = [f"endpoint {at} (AWS_ENDPOINT_URL)"] if at else []
            raise RemoteStoreError(
                f"{self._address.root} does not answer.",
                details=[f"{reason.short}; tried again for {waited:.0f} s", *where],
                fix=["run the same command again once it answers: it continues", advice],
            ) from None
        if waited > 2.0:
            _say_once(self._address.root, f"{self._address.root}: {reason.short}; trying again for up to {limit:.0f} s")
        return pause


def patiently(address: Address, act: Callable[[Any], T]) -> T:
    """Ask the client of a bucket until it answers or patience ends. Pauses are Python's, so that Ctrl-C ends them."""
    patience = Patience(address)
    while True:
        try:
            result = act(client(address.root))
        except Exception as error:
            if isinstance(error, (ArcpipeError, ValueError)):
                raise
            time.sleep(patience.pause_after(error))
        else:
            patience.answered()
            return result


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """Inside, this thread's requests are tried again for two seconds only: for tidying up on the way out."""
    token = _hurry.set(True)
    try:
        yield
    finally:
        _hurry.reset(token)


def hurry_up() -> None:
    """From now on no request of this process is waited for long: a person asked it to end."""
    _leaving.set()


def patience_s() -> float:
    """Seconds for which a request is tried again."""
    if _hurry.get():
        return 2.0
    if _leaving.is_set():
        return LEAVING_S
    text = os.environ.get("ARCPIPE_REMOTE_PATIENCE", "")
    try:
        return float(text) if text else PATIENCE_S
    except ValueError:
        raise ConfigError(f"ARCPIPE_REMOTE_PATIENCE={text} is no number of seconds.") from None


def client(root: str) -> Any:
    """The obstore client of a bucket: one for each process and set of credentials, since it keeps connections."""
    settings = (pair for pair in sorted(os.environ.items()) if pair[0].startswith(("AWS_", "GOOGLE_", "AZURE_")))
    return _client(root, tuple(settings))


@functools.lru_cache(maxsize=8)
def _client(root: str, environment: tuple[tuple[str, str], ...]) -> Any:
    values = dict(environment)
    allow_http = values.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes")
    at = endpoint()
    if root.startswith("s3://") and at is not None and at.startswith("http://") and not allow_http:
        raise ConfigError(
            f"the endpoint {at} is not encrypted: keys and pictures would be open to read on the way.",
            fix=["an https:// endpoint", "or, on a network that you trust: AWS_ALLOW_HTTP=true"],
        )
    try:
        from obstore.store import from_url
    except ImportError:
        raise RemoteStoreError(
            "stores in a bucket need the package obstore, which is not installed.",
            fix=[install("remote")],
        ) from None
    options = {"timeout": "60s", "connect_timeout": "10s", **({"allow_http": True} if allow_http else {})}
    return from_url(root, client_options=options, retry_config={"max_retries": 0})  # type: ignore[call-overload]


def endpoint() -> str | None:
    """The S3 endpoint that the environment names, without credentials; None: Amazon's own."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        if os.environ.get(name):
            scheme, _, rest = os.environ[name].partition("://")
            return f"{scheme}://{rest.rpartition('@')[2]}"
    return None


def _below(prefix: Address) -> str | None:
    return f"{prefix.key}/" if prefix.key else None


@functools.cache
def _say_once(root: str, message: str) -> None:
    print(message, file=sys.stderr, flush=True)
