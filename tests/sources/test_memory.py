"""Every odd image in a process that may take only so much memory."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.data
IGNORED = {".DS_Store", "._hopper.jpg", "Thumbs.db", "labels.txt", "no_extension"}
LIMIT_BYTES = 400 * 2**20
CODE = """
import json, resource, sys
from pathlib import Path
from arcpipe.config import SourceSection
from arcpipe.errors import ImageError
from arcpipe.sources import open_source

source = open_source(SourceSection(source=sys.argv[1]))
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + int(sys.argv[2]),) * 2)
found = {}
for sample in source.inventory().samples["train"]:
    try:
        found[sample.key] = list(source.read(sample, 3).shape)
    except ImageError as error:
        found[sample.key] = error.reason
print(json.dumps(found))
"""


def test_all_66_odd_images_within_a_limit_of_memory(development_images: Path) -> None:
    command = [sys.executable, "-c", CODE, str(development_images / "odd-images.tar"), str(LIMIT_BYTES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    with (development_images / "odd-images-manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 66
    as_expected = 0
    for row in rows:
        name = row["name"]
        if Path(name).name in IGNORED:
            assert name not in found
        elif row["valid"] == "yes" and not name.endswith("big_48mp.jpg"):
            assert found[name] == [int(row["display_height"]), int(row["display_width"]), 3], name
        else:
            assert found[name] in ("truncated", "unreadable", "too-large"), name
        as_expected += 1
    assert as_expected == 66
    assert found["train/valid/big_48mp.jpg"] == "too-large", "above --max-pixels, by its header"
