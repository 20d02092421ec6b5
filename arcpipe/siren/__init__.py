"""Sine networks (SIREN, Sitzmann et al. 2020) that are one image each: no files, no clock, no global random state."""

from arcpipe.siren.fit import FittedSiren, fit_sirens
from arcpipe.siren.network import VARIANTS, Variant, layer_sizes, new_record, render, split_layers

__all__ = ["VARIANTS", "FittedSiren", "Variant", "fit_sirens", "layer_sizes", "new_record", "render", "split_layers"]
