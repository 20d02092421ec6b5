"""One class per thing that a user can fix, each with its exit code.

An error says what happened, then where and expected against found, then the command that helps:

    StoreMismatchError: cannot continue store/digits.zarr: the settings changed.
      fit.steps: the store was made with 500, this run asks for 200
      try: arcpipe convert digits --out store/digits-2.zarr --steps 200
"""

from __future__ import annotations

from collections.abc import Iterable


class ArcpipeError(Exception):
    """Base of all errors that are a user's to fix; the command line prints them without a traceback.

    Args:
        what: One sentence: what happened and to which path or option.
        details: Lines that say where, expected and found.
        fix: Commands or actions that help, most likely first.
    """

    exit_code = 1

    def __init__(self, what: str, *, details: Iterable[str] = (), fix: Iterable[str] = ()) -> None:
        super().__init__(what)
        self.what = what
        self.details = tuple(details)
        self.fix = tuple(fix)

    @property
    def told(self) -> tuple[str, str, tuple[str, ...], tuple[str, ...]]:
        """What another process needs to raise it, see `rebuilt`."""
        return type(self).__name__, self.what, self.details, self.fix

    def __str__(self) -> str:
        lines = [self.what]
        lines += [f"  {line}" for line in self.details]
        lines += [f"  try: {line}" for line in self.fix]
        return "\n".join(lines)


def rebuilt(name: str, what: str, details: Iterable[str], fix: Iterable[str]) -> ArcpipeError:
    """An error that another process has `told`."""
    kind = globals().get(name)
    if not (isinstance(kind, type) and issubclass(kind, ArcpipeError)):
        kind = ArcpipeError
    return kind(what, details=details, fix=fix)


class ConfigError(ArcpipeError):
    """An option or a key of a TOML file is unknown or has a value it cannot have."""

    exit_code = 2


class SourceError(ArcpipeError):
    """The image dataset is missing, empty, of one class only, or laid out in a way that cannot be read."""

    exit_code = 2


class DownloadError(ArcpipeError):
    """A named dataset is not here and could not be fetched, or what came is not what was pinned."""


class RemoteStoreError(ArcpipeError):
    """An object store does not answer, has no such bucket, or is of a kind that cannot hold a store."""


class FileAccessError(ArcpipeError):
    """A file or folder cannot be read or written: no permission, a read-only place, a failing disk."""


class MissingPackageError(ArcpipeError):
    """Something was asked for that needs a package which is not installed."""

    exit_code = 2


class DeviceError(ArcpipeError):
    """More GPUs were asked for than the machine has."""

    exit_code = 2


class ClusterError(ArcpipeError):
    """The Dask scheduler cannot be reached, or its workers run other versions."""


class ImageError(ArcpipeError):
    """One image cannot be used; it becomes a record in its part and the others go on.

    `reason` is a stable code: `unreadable`, `truncated`, `too-large`, `too-small`, `not-finite`, `changed`. A sample
    that no error could be caught for has `killed`, `hung`, `out-of-memory` or `error` (docs/converting.md).
    """

    def __init__(
        self, what: str, *, reason: str = "unreadable", details: Iterable[str] = (), fix: Iterable[str] = ()
    ) -> None:
        super().__init__(what, details=details, fix=fix)
        self.reason = reason


class ShortageError(ArcpipeError):
    """The machine has no more memory, threads or open files."""


class TooFewAnchorsError(ArcpipeError):
    """A cloud has fewer anchors than neighbours are asked for."""


class NotAStoreError(ArcpipeError):
    """The path is missing, or holds something that is not an arcpipe store (or one of another format version)."""

    exit_code = 2


class UnfinishedStoreError(ArcpipeError):
    """The store's conversion has not finished."""


class MissingSplitError(ArcpipeError):
    """The store has no such split."""

    exit_code = 2


class SampleNotFoundError(ArcpipeError):
    """The store has no such sample, or it failed to convert."""

    exit_code = 2


class StoreMismatchError(ArcpipeError):
    """The store was made by other settings, another decoder or another source."""

    exit_code = 3


class StoreBusyError(ArcpipeError):
    """Another converter is at work on this store."""

    exit_code = 4


class TooManyFailuresError(ArcpipeError):
    """The conversion is done, but more samples failed than `--max-failed` allows; or some images of a prediction."""

    exit_code = 5


class DamagedStoreError(ArcpipeError):
    """Bytes of the store are not those that were written."""

    exit_code = 6
    where: str | None = None
    """The name of the file or array in its store, where it is known."""


class NoSpaceError(ArcpipeError):
    """The disk is full, or the plan needs more than is free."""

    exit_code = 7


class CheckpointError(ArcpipeError):
    """A run folder or checkpoint is missing, or its shapes are not those of the model."""


class DivergedError(ArcpipeError):
    """The training loss is no longer a number."""


class PipelineError(ArcpipeError):
    """Some arms of a pipeline file failed; the others are done."""


class RankLostError(ArcpipeError):
    """One of the processes that train together has ended."""


class EndedElsewhereError(ArcpipeError):
    """This process ends because another one that it works with does, and that one says why. Nothing is printed."""


def install(extra: str, options: str = "") -> str:
    """The command that installs what an extra of arcpipe needs, where it was installed from a checkout."""
    return f"pip install {options}-e '.[{extra}]', in the checkout of arcpipe"
