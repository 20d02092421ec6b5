"""Imagenette, ten easy classes of ImageNet, in its official archives or in the folder they unpack to."""

from __future__ import annotations

from pathlib import Path

from arcpipe.config import SourceSection
from arcpipe.sources.archive import Tar
from arcpipe.sources.download import RemoteFile
from arcpipe.sources.files import Container, ImageFiles
from arcpipe.sources.folder import Folder
from arcpipe.sources.inventory import Source, Tell
from arcpipe.sources.named import NamedSet
from arcpipe.sources.randomfile import RandomFile


def _open(paths: list[Path], section: SourceSection, seed: int, progress: Tell) -> Source:
    [path] = paths
    container: Container = Folder(path) if path.is_dir() else Tar(RandomFile(path), section.source)
    return ImageFiles(container, section, seed=seed, progress=progress)


def _archive(stem: str, nbytes: int, sha256: str) -> tuple[RemoteFile]:
    url = f"https://s3.amazonaws.com/fast-ai-imageclas/{stem}.tgz"
    return (RemoteFile(url, nbytes, f"sha256:{sha256}", same_as=(stem,)),)


IMAGENETTE = NamedSet(
    "imagenette",
    _open,
    _archive("imagenette2", 1557161267, "6cbfac238434d89fe99e651496f0812ebc7a10fa62bd42d6874042bf01de4efd"),
)
IMAGENETTE320 = NamedSet(
    "imagenette320",
    _open,
    _archive("imagenette2-320", 341663724, "569b4497c98db6dd29f335d1f109cf315fe127053cedf69010d047f0188e158c"),
)
