"""`ap.convert(...)`: what the command does, from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arcpipe.config import ConvertConfig, build, sectioned
from arcpipe.convert.report import ConvertReport
from arcpipe.convert.run import run_convert
from arcpipe.options import default_store
from arcpipe.storage import Place


def convert(
    source: Path | str,
    out: Place | None = None,
    *,
    overwrite: bool = False,
    retry_failed: bool = False,
    **settings: Any,
) -> ConvertReport:
    """Turn an image dataset into a store of clouds. Safe to run again: it continues.

    >>> import arcpipe as ap
    >>> report = ap.convert("digits", "store/few.zarr", limit=20, decoder="store/digits.zarr", workers=1)
    >>> report.failed, len(ap.open_store(report.store))
    (0, 40)

    Args:
        source: A named dataset (`digits`, `mnist`, ...), a folder, a tar or a zip.
        out: The store, a path or `s3://BUCKET/NAME.zarr`; by default `store/NAME.zarr`.
        overwrite: Replace a store that was made by other settings.
        retry_failed: Make the parts with failed samples again.
        settings: Any of `ConvertConfig` by its name, for example `recipe="thesis"`, `latents=0.1`, `dtype="int8"`,
            `workers=4`; or a section as a whole, `fit={"lr": 0.01}`.

    Raises:
        TooManyFailuresError: the store is done, but more samples failed than `max_failed` allows.
        ArcpipeError: as the command, see its message.
    """
    values = {"source": str(source), "out": out or default_store(str(source)), **settings}
    report = run_convert(
        build(ConvertConfig, sectioned(ConvertConfig, values), "convert"),
        overwrite=overwrite,
        retry_failed=retry_failed,
    )
    assert isinstance(report, ConvertReport)
    report.check()
    return report
