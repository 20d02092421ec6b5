"""Imagenette, ten easy classes of ImageNet, in its official archives or in the folder they unpack to."""

from __future__ import annotations

from pathlib import Path

from arcpipe.sources.archive import Tar
from arcpipe.sources.download import RemoteFile
from arcpipe.sources.files import Container
from arcpipe.sources.folder import Folder
from arcpipe.sources.named import NamedSet
from arcpipe.sources.randomfile import RandomFile


def _set(name: str, stem: str, nbytes: int, sha256: str) -> NamedSet:
    def opened(paths: list[Path]) -> Container:
        [path] = paths
        return Folder(path) if path.is_dir() else Tar(RandomFile(path), name)

    url = f"https://s3.amazonaws.com/fast-ai-imageclas/{stem}.tgz"
    return NamedSet(name, opened, (RemoteFile(url, nbytes, f"sha256:{sha256}", same_as=(stem,)),))


IMAGENETTE = _set(
    "imagenette", "imagenette2", 1557161267, "6cbfac238434d89fe99e651496f0812ebc7a10fa62bd42d6874042bf01de4efd"
)
IMAGENETTE320 = _set(
    "imagenette320", "imagenette2-320", 341663724, "569b4497c98db6dd29f335d1f109cf315fe127053cedf69010d047f0188e158c"
)
