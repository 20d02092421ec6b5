"""Which changes the clouds of a store can be given in training, and how their latents follow the picture."""

from __future__ import annotations

from arcpipe.arc.maps import Maps
from arcpipe.cloud import BasisRecord, DecoderRecord, SirenRecord
from arcpipe.config import OF_NETWORKS, AugmentSection
from arcpipe.errors import ConfigError
from arcpipe.store import Store
from arcpipe.stream.augment import COLOURS, Columns


def columns_of(decoder: DecoderRecord) -> Columns:
    """What the latents of a store are, for changes of the picture."""
    if isinstance(decoder, SirenRecord):
        return Columns(networks=decoder)
    return Columns(Maps(decoder) if isinstance(decoder, BasisRecord) else None)


def check_changes(augment: AugmentSection, store: Store) -> None:
    """Refuse what the store's clouds cannot do.

    Raises:
        ConfigError: augmentations that would not change what describes a point.
    """
    kind, apply = store.decoder_kind, augment.apply
    foreign = [name for name in apply if name not in OF_NETWORKS]
    if kind == "siren" and foreign:
        others = ",".join(name for name in apply if name in OF_NETWORKS) or "none"
        raise ConfigError(
            "sine networks have no points to change.",
            details=[f"found --augment {','.join(foreign)}", f"networks change by {', '.join(OF_NETWORKS)}"],
            fix=[f"--augment {others}", "arcpipe convert ... --recipe basis"],
        )
    foreign = [name for name in apply if name in OF_NETWORKS and name != "rotate"]
    if kind != "siren" and foreign:
        others = ",".join(name for name in apply if name not in foreign) or "none"
        raise ConfigError(
            f"--augment {','.join(foreign)} changes sine networks.",
            details=[f"{store.storage} is of the kind {kind}"],
            fix=[f"--augment {others}", "arcpipe convert ... --recipe siren"],
        )
    refused = [name for name in apply if name in ("zoom", *COLOURS)]
    others = ",".join(name for name in apply if name not in refused) or "none"
    if refused and kind != "basis":
        raise ConfigError(
            f"--augment {','.join(refused)} needs latents of the kind basis: others do not change with the picture.",
            details=[f"{store.storage} is of the kind {kind}"],
            fix=[f"--augment {others}", "arcpipe convert ... --recipe basis"],
        )
    refused = [name for name in apply if name in ("saturation", "hue")]
    others = ",".join(name for name in apply if name not in refused) or "none"
    if refused and store.channels != 3:
        raise ConfigError(
            f"--augment {','.join(refused)} needs images of three channels.",
            details=[f"those of {store.storage} have {store.channels}"],
            fix=[f"--augment {others}"],
        )
