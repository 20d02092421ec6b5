"""Prints pip constraints to the oldest series of every package that pyproject.toml allows: `make oldest`.

`zarr>=3.1` gives `zarr==3.1.*`. torch is left out: its old builds for CPUs are in few indexes.
"""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
for requirement in project["dependencies"] + extras["test"] + extras["remote"] + extras["cluster"]:
    found = re.match(r"([\w-]+)(?:\[.*?\])?>=([\d.]+)", requirement)
    if found and found[1] != "torch":
        print(f"{found[1]}=={found[2]}.*")
