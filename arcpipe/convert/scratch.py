"""Where local workers keep their temporary files: a folder that the next run removes if this one is killed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arcpipe.files import attempt_folder, remove_stale


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder in this user's own part of the temporary folder; those of dead processes are removed first."""
    place = Path(tempfile.gettempdir()) / f"arcpipe-workers-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    if place.is_symlink() or place.stat().st_uid != os.getuid():  # somebody else was here first: nothing is swept
        with tempfile.TemporaryDirectory(prefix="arcpipe-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
        return
    remove_stale(place)
    with attempt_folder(place, "run") as own:
        yield own
