"""What a storage service's refusal means: something that passes, something to handle, or something a user can fix."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

from arcpipe.errors import FileAccessError, NoSpaceError, RemoteStoreError

PASSING_CODES = {"SlowDown", "InternalError", "RequestTimeout", "ServiceUnavailable", "OperationAborted"}
FULL_CODES = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "InsufficientCapacity"}


@dataclass(frozen=True)
class Reason:
    """`passes`: worth another try; `error`: what to raise otherwise; `short`: a few words for people."""

    passes: bool
    error: Exception
    short: str


def reason_of(error: Exception, address: str) -> Reason:
    """Read an error of obstore. Its text carries the status and, of S3, a code and a message; the rest is not shown."""
    text, kind = str(error), type(error).__name__
    status = int(found[1]) if (found := re.search(r"status code: (\d{3})", text)) else None
    code = found[1] if (found := re.search(r"<Code>(\w+)</Code>", text)) else ""
    said = found[1] if (found := re.search(r"<Message>([^<]{1,200})</Message>", text)) else ""
    short = ": ".join(word for word in (code, said) if word) or _network_words(text) or f"status {status}"
    if "169.254." in text or "metadata.google" in text:  # asked the machine for a role, for want of credentials
        return Reason(False, _no_credentials(address), "no credentials")
    if code == "NoSuchBucket" or (status == 404 and "Error performing list request" in text):
        return Reason(False, _no_bucket(address), "no such bucket")
    if isinstance(error, FileNotFoundError):
        return Reason(False, FileNotFoundError(errno.ENOENT, "no such object", address), "no such object")
    if kind in ("AlreadyExistsError", "PreconditionError"):
        return Reason(False, FileExistsError(errno.EEXIST, "it exists already", address), "it exists already")
    if kind in ("PermissionDeniedError", "UnauthenticatedError") or status in (401, 403):
        return Reason(False, _no_permission(address, short), short)
    if code in FULL_CODES or status == 507:
        return Reason(False, _full(address, short), short)
    passes = code in PASSING_CODES or status in (408, 409, 425, 429) or (status is not None and status >= 500)
    if status is None and "HTTP error" in text and "builder error" not in text:
        passes = True
    details = [short if short != "status None" else text.split("\n")[0].split("?")[0][:200]]
    return Reason(passes, RemoteStoreError(f"{address} cannot be read or written.", details=details), short)


def _network_words(text: str) -> str:
    """`Connection refused` and the like, from what the HTTP library says."""
    known = ("Connection refused", "Name or service not known", "dns error", "Connection reset", "timed out",
             "TimedOut", "certificate", "connection closed", "BrokenPipe", "IncompleteMessage")  # fmt: skip
    words = next((words for words in known if words.lower() in text.lower()), "")
    names = {"TimedOut": "timed out", "IncompleteMessage": "connection closed", "dns error": "unknown host"}
    return names.get(words, words) or ("no connection" if "HTTP error" in text else "")


def _bucket(address: str) -> str:
    return "/".join(address.split("/")[:3])


def _no_bucket(address: str) -> RemoteStoreError:
    return RemoteStoreError(
        f"there is no bucket {_bucket(address)}.",
        fix=["make it first: arcpipe makes no buckets", "check its name, AWS_ENDPOINT_URL and AWS_REGION"],
    )


def _no_permission(address: str, short: str) -> FileAccessError:
    return FileAccessError(
        f"{address} is refused to these credentials.",
        details=[short],
        fix=["check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, on every worker too, and what they may do there"],
    )


def _no_credentials(address: str) -> FileAccessError:
    return FileAccessError(
        f"there are no credentials for {_bucket(address)}.",
        details=["neither in the environment nor from a role of this machine"],
        fix=[
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, on every worker too",
            "or, for a public bucket that is only read: AWS_SKIP_SIGNATURE=true",
        ],
    )


def _full(address: str, short: str) -> NoSpaceError:
    return NoSpaceError(
        f"no space left to write {address}.",
        details=[short, "parts that were committed are safe"],
        fix=["make room or raise the quota, then run the same command again: it continues"],
    )
