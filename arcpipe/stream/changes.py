"""Which changes the clouds of a store can be given in training, and how their latents follow the picture."""

from __future__ import annotations

from collections.abc import Sequence

from arcpipe.arc.maps import Maps
from arcpipe.cloud import BasisRecord, DecoderRecord, SirenRecord
from arcpipe.config import OF_NETWORKS, AugmentSection
from arcpipe.errors import ConfigError
from arcpipe.store import Store
from arcpipe.stream.augment import COLOURS, Columns


def columns_of(decoder: DecoderRecord) -> Columns | None:
    """What the latents of a store are, for changes of the picture."""
    if isinstance(decoder, BasisRecord):
        return Maps(decoder)
    return decoder if isinstance(decoder, SirenRecord) else None


def check_changes(augment: AugmentSection, store: Store) -> None:
    """Refuse what the store's clouds cannot do.

    Raises:
        ConfigError: augmentations that would not change what describes a point.
    """
    apply, kind = augment.apply, f"{store.storage} is of the kind {store.decoder_kind}"
    if store.decoder_kind == "siren":
        foreign = [name for name in apply if name not in OF_NETWORKS]
        details = [f"found --augment {','.join(foreign)}", f"networks change by {', '.join(OF_NETWORKS)}"]
        _refuse(foreign, apply, "sine networks have no points to change.", details, "basis")
        return
    of_networks = [name for name in apply if name in OF_NETWORKS and name != "rotate"]
    _refuse(of_networks, apply, "--augment {} changes sine networks.", [kind], "siren")
    if store.decoder_kind != "basis":
        what = "--augment {} needs latents of the kind basis: others do not change with the picture."
        _refuse([name for name in apply if name in ("zoom", *COLOURS)], apply, what, [kind], "basis")
    if store.channels != 3:
        coloured = [name for name in apply if name in ("saturation", "hue")]
        channels = f"those of {store.storage} have {store.channels}"
        _refuse(coloured, apply, "--augment {} needs images of three channels.", [channels])


def _refuse(names: Sequence[str], apply: Sequence[str], what: str, details: Sequence[str], recipe: str = "") -> None:
    """Raise ConfigError where there are `names`, which stand in `what`; the others of `apply` would do."""
    if names:
        others = ",".join(name for name in apply if name not in names) or "none"
        fix = [f"--augment {others}", *([f"arcpipe convert ... --recipe {recipe}"] if recipe else [])]
        raise ConfigError(what.format(",".join(names)), details=details, fix=fix)
