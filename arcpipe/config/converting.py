"""What `arcpipe convert` can be told: which images, how they become clouds, how those are stored, who does the work."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ByteSize, Field, WrapValidator, field_validator, model_validator

from arcpipe.config.section import (
    At,
    Count,
    Edge,
    Few,
    Fraction,
    LearningRate,
    Rate,
    Readable,
    Seconds,
    Section,
    Seed,
    Share,
    Strength,
    Width,
    checked_path,
)
from arcpipe.errors import ConfigError
from arcpipe.options import Cache, Dtype, Recipe, Schedule


class SourceSection(Section):
    """Which images, and what shape they take before they are fitted."""

    source: Annotated[str, WrapValidator(checked_path)]
    """A named dataset (`digits`, `mnist`, ...), a folder, a tar or a zip."""
    data: Readable | None = None
    """Where named datasets are looked for and downloaded to; `ARCPIPE_DATA` if not given."""
    size: Edge | None = None
    """Resize to exactly S x S pixels."""
    shorter: Edge | None = None
    """Resize so that the shorter side has S pixels."""
    center_crop: Edge | None = None
    """Cut the middle S x S pixels (after resizing)."""
    pad: Edge | None = None
    """Pad with zeros to S x S pixels, the picture in the middle (after cropping)."""
    displace: bool = False
    """With `pad`: put the picture at a random place, seeded per sample."""
    grey: bool = False
    """One channel (ITU-R 601 luma)."""
    limit: Count | None = None
    """At most so many samples of each split, evenly over the classes, the same ones every time."""
    splits: tuple[str, ...] | None = None
    """Only these splits; by default all."""
    held_out: Share = 0.2
    """Of every class where folders name no splits: so large a share becomes the split `test`."""
    max_pixels: Count = 2**25
    """Larger pictures (after shaping) are recorded as failed instead of fitted. 33.5 megapixels."""

    @model_validator(mode="after")
    def one_shape(self) -> Self:
        if self.size and self.shorter:
            raise ConfigError("--size and --shorter cannot be combined.", fix=["give only one of them"])
        if self.displace and not self.pad:
            raise ConfigError("--displace needs --pad.", fix=["add --pad S, for example --pad 100"])
        return self


RECIPES: dict[str, dict[str, Any]] = {
    "thesis": {},
    "basis": {"decoder_kind": "basis", "patch": 0.2, "steps": 1, "pretrain_images": 400, "pretrain_steps": 400},
    "siren": {
        "decoder_kind": "siren",
        "latents": 1,
        "neighbours": 1,
        "hidden": (32, 32),
        "steps": 1000,
        "lr": 5e-4,
        "pixel_share": 1.0,
    },
}
"""Defaults of `FitSection` by recipe, where they are not those of the thesis."""


OF_FAST = frozenset(("steps", "lr", "schedule", "betas", "pretrain_lr", "pretrain_betas"))
"""What a recipe `fast` set, which is no more: a store of it has recorded them all, and is one of `thesis` with them."""


GONE: dict[str, Any] = {"whiten": False, "ridge": 0.0, "alone": 0.3}
"""Settings of `FitSection` that are no more but are recorded in older stores and runs: each is passed over where it has
this value, with which it changed nothing."""


_OF_ADAM = ("hidden", "steps", "lr", "schedule", "betas", "eps", "pixel_share")
OF_KIND: dict[str, tuple[str, ...]] = {
    "concat": (*_OF_ADAM, "init", "pretrain_lr", "pretrain_betas"),
    "basis": ("damping", "patch"),
    "siren": (*_OF_ADAM, "variant", "start", "omega", "stop_db"),
}
"""Settings of `FitSection` that not all kinds of decoders read, by those that do."""


def unread(kind: str) -> list[str]:
    """The settings of other kinds of decoders that `kind` does not read."""
    others = dict.fromkeys(name for names in OF_KIND.values() for name in names)
    return [name for name in others if name not in OF_KIND[kind]]


def kind_of(recipe: str) -> str:
    """The kind of decoder of a recipe."""
    return str(RECIPES[recipe].get("decoder_kind", "concat"))


class FitSection(Section):
    """How one image becomes one cloud (METHOD of the thesis, section 3.2 and appendix A)."""

    recipe: Recipe = "thesis"
    """A set of defaults. `basis`: a decoder that is linear in the latents, which are solved for. `thesis`: the thesis's
    procedure. `siren`: a sine network for each image."""
    latents: Annotated[float, Field(gt=0, le=2**24)] = 0.05
    """Below 1: share of the pixels that receive an anchor. 1 and above: their number."""
    latent_dim: Width = 32
    """Numbers in a latent."""
    neighbours: Annotated[int, Field(ge=1, le=64)] = 4
    """Nearest anchors that decode a pixel."""
    decoder_kind: Literal["concat", "basis", "siren"] = "concat"
    """Decided by the recipe. `concat`: the near latents, by their order, into one network, as in the thesis. `basis`:
    each near latent times a matrix that depends on its relative position. `siren`: a network of its own for each image,
    whose parameters are the one latent."""
    variant: Literal["siren", "siren-nfn", "siren-dws"] = "siren"
    """Of `siren`: initialisation, coordinates and range of colours as in the thesis's appendix C, or as in the public
    sets of NFN and of DWSNets (docs/baselines.md)."""
    start: Literal["shared", "independent"] = "shared"
    """Of `siren`: whether all networks begin at the same parameters, or each at its own."""
    omega: Rate = 30.0
    """Of `siren`: the factor inside the sines."""
    stop_db: Strength = 0.0
    """Of `siren`: a fit ends at this PSNR; 0 takes all steps."""
    damping: Rate = 0.01
    """Of `basis`: added to the loss for the squared length of every latent, in squared colours of one pixel."""
    patch: Strength = 0.0
    """Of `basis`: weight of the patch around its anchor that a latent describes, beside the pixels it decodes. More
    makes latents easier to read and reconstructions worse."""
    hidden: Annotated[tuple[Width, ...], Field(min_length=1, max_length=64)] | None = None
    """Hidden widths of the decoder; the thesis has one layer of `neighbours * (latent_dim + 2)`."""
    steps: Count = 500
    """Of Adam; a fit of `basis` has one, which solves it."""
    lr: LearningRate = 0.005
    """Learning rate of Adam."""
    schedule: Schedule = "constant"
    """`cosine`: the rate falls from `lr` to 0 along half a cosine, over the steps of a fit (not of pretraining)."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Shares of both moments that Adam keeps in a step."""
    eps: Annotated[float, Field(ge=1e-30, le=1)] = 1e-8
    """What Adam adds to the root of the second moment."""
    pixel_share: Fraction = 0.25
    """Share of the pixels supervised in one step."""
    init: Strength = 1e-4
    """Latents start uniform in [-init, init]."""
    pretrain_images: Count = 100
    """Images of the training split from which the decoder is learned."""
    pretrain_steps: Count = 500
    """Steps by which it is learned."""
    pretrain_lr: LearningRate | None = None
    """Rate of the joint stage, constant; `lr` if not given."""
    pretrain_betas: tuple[Share, Share] | None = None
    """Of the joint stage; `betas` if not given."""
    repeats: Annotated[int, Field(ge=1, le=10**6)] = 1
    """Fit every image so many times, each with its own seed, all in the same split."""
    views: Annotated[int, Field(ge=1, le=10**6)] = 1
    """Fit so many views of every image, all in the same split: the image, then crops of it, see `view_flip`."""
    view_flip: bool = True
    """Whether each of the crops is mirrored, left to right, with a chance of one half."""
    decoder: Annotated[str, WrapValidator(checked_path)] | None = None
    """A store or a safetensors file whose decoder is used instead of pretraining one."""

    @model_validator(mode="before")
    @classmethod
    def defaults_of_recipe(cls, values: Any) -> Any:
        """What is not given comes from the recipe; an unknown recipe is left to the check of the field."""
        if not isinstance(values, Mapping):
            return values
        values = {key: value for key, value in values.items() if key not in GONE or value != GONE[key]}
        if values.get("recipe") == "fast" and values.keys() >= OF_FAST:
            values["recipe"] = "thesis"
        recipe = values.get("recipe")
        if values.get("decoder_kind") in ("basis", "siren") and recipe is None:
            values["recipe"] = recipe = values["decoder_kind"]
        return {**RECIPES.get(recipe, {}), **values} if isinstance(recipe, str) else values

    @model_validator(mode="after")
    def fits_the_recipe(self) -> Self:
        if self.decoder_kind != kind_of(self.recipe):
            raise ConfigError(
                "fit.decoder_kind does not fit the recipe.",
                details=[f"found decoder_kind {self.decoder_kind} with the recipe {self.recipe}"],
                fix=[f"--recipe {'thesis' if self.decoder_kind == 'concat' else self.decoder_kind}"],
            )
        usual = {name: field.default for name, field in type(self).model_fields.items()} | RECIPES[self.recipe]
        ignored = [name for name in unread(self.decoder_kind) if getattr(self, name) != usual[name]]
        if ignored:
            readers = [kind for kind, names in OF_KIND.items() if ignored[0] in names]
            recipe = f"--recipe {'thesis' if 'concat' in readers else readers[0]}"
            raise ConfigError(
                f"the recipe {self.recipe} does not read {', '.join(f'fit.{name}' for name in ignored)}.",
                fix=[recipe, "or leave it out"],
            )
        return self

    @model_validator(mode="after")
    def fits_together(self) -> Self:
        if self.decoder_kind != "siren" and 1 <= self.latents < self.neighbours:
            raise ConfigError(
                "--latents is too small.",
                details=[f"expected at least --neighbours = {self.neighbours}", f"found {self.latents:g}"],
                fix=[f"--latents {self.neighbours}", "or a share of the pixels, below 1, for example --latents 0.05"],
            )
        if self.repeats > 1 and self.views > 1:
            raise ConfigError("--repeats and --views cannot be combined.", fix=["give only one of them"])
        if self.decoder_kind != "siren":
            return self
        if (self.latents, self.neighbours) != (1, 1):
            raise ConfigError(
                "a sine network is one latent: the recipe siren has no --latents and --neighbours.",
                details=[f"found {self.latents:g} and {self.neighbours}"],
                fix=["leave them out", "--set fit.hidden=[64,64] for a larger network"],
            )
        if self.repeats > 1 and self.start == "shared" and self.pixel_share == 1:
            raise ConfigError(
                "--repeats would make the same network again: all begin at the same parameters.",
                fix=["--set fit.start=independent"],
            )
        return self

    @property
    def clouds_an_image(self) -> int:
        """How many fits the store has of each image."""
        return max(self.repeats, self.views)

    @property
    def joint(self) -> FitSection:
        """The settings of the joint stage: those of a fit, with the rate and betas of pretraining."""
        return self.model_copy(
            update={
                "steps": self.pretrain_steps,
                "lr": self.pretrain_lr or self.lr,
                "betas": self.pretrain_betas or self.betas,
                "schedule": "constant",
            }
        )

    @property
    def hidden_widths(self) -> tuple[int, ...]:
        if self.decoder_kind == "basis":
            return ()
        return self.hidden or (self.neighbours * (self.latent_dim + 2),)


class StoreSection(Section):
    """How clouds lie on disk."""

    dtype: Dtype = "float16"
    """How latents are stored; int8 with a scale for each dimension."""
    bits: Annotated[int, Field(ge=2, le=8)] = 8
    """Of `int8`: 6 take a quarter less space than 8, see docs/store-format.md."""
    neighbours_cache: Cache = "pixels"
    """`pixels`: each pixel's nearest anchors are stored; `none`: they are found again when needed."""
    part_samples: Count | None = None
    """Samples in a part; by default as many as make 30 to 120 seconds of work."""

    @model_validator(mode="after")
    def bits_of_int8(self) -> Self:
        if self.bits != 8 and self.dtype != "int8":
            raise ConfigError(f"store.bits is of --dtype int8, found {self.dtype}.", fix=["--dtype int8"])
        return self


class RunSection(Section):
    """Who does the work; nothing here changes a byte of the result, but that GPUs round otherwise than CPUs."""

    workers: Few | None = None
    """Worker processes on this machine; by default one per core."""
    gpus: Few | None = None
    """So many GPUs of this machine fit the clouds."""
    gpu_workers: Few | None = None
    """Worker processes that share a GPU: while it fits the images of one, the others read, check and write. By default
    as many as its share of the cores, at most 4."""
    scheduler: str | None = None
    """Address of a running Dask scheduler."""
    cluster: Readable | None = None
    """A TOML file that says how to ask a batch system for workers (docs/clusters.md)."""
    wait_s: Seconds | None = None
    """How long to wait for a worker that others start, at first and when all have left: 2 minutes, a job for a day."""
    memory: Annotated[ByteSize, Field(ge=2**28, le=2**50)] | None = None
    """Memory of a worker process, such as `2GiB`; by default its share of the machine's. An image that needs more is
    recorded as failed."""
    max_failed: Annotated[float, Field(ge=0, le=10**9)] = 0.05
    """Below 1: share of the samples that may fail. 1 and above: their number."""
    hung_read_s: Seconds = 300.0
    """An image that takes longer to read and decode is recorded as `hung`."""
    hung_part_s: Seconds = 1800.0
    """A part that takes longer than this, and than 30 times its planned work, has a sample that hangs."""

    @field_validator("scheduler")
    @classmethod
    def is_an_address(cls, address: str | None) -> str | None:
        if address is None or re.fullmatch(r"(\w+://)?(\[[0-9a-fA-F:.%]+\]|[\w.-]+):[0-9]{1,5}", address):
            return address
        raise ConfigError(
            f"--scheduler {address} is no address.",
            details=["expected a host and a port, or both behind tcp:// or tls://"],
            fix=["--scheduler tcp://127.0.0.1:8786"],
        )

    @model_validator(mode="after")
    def one_cluster(self) -> Self:
        chosen = [
            f"--{name}" for name in ("workers", "gpus", "scheduler", "cluster") if getattr(self, name) is not None
        ]
        if len(chosen) > 1:
            raise ConfigError(f"{' and '.join(chosen)} cannot be combined.", fix=["give only one of them"])
        if self.gpu_workers is not None and self.gpus is None:
            raise ConfigError("run.gpu_workers are workers of a GPU, and no --gpus is given.", fix=["--gpus 1"])
        return self


class ConvertConfig(Section):
    """Everything `arcpipe convert` is told."""

    source: SourceSection
    out: At
    """The store: a path, or s3://BUCKET/NAME.zarr."""
    seed: Seed = 0
    """Everything random derives from it."""
    fit: FitSection = FitSection(recipe="basis")
    store: StoreSection = StoreSection()
    run: RunSection = RunSection()

    @model_validator(mode="after")
    def sirens_on_cpus(self) -> Self:
        if self.fit.decoder_kind == "siren" and self.run.gpus is not None:
            raise ConfigError(
                "the recipe siren is fitted on CPUs: it has no --gpus.", fix=["--workers N", "or leave --gpus out"]
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def defaults_of_recipe(cls, values: Any) -> Any:
        """A conversion that names no recipe takes `basis`; `FitSection` by itself stands for the thesis.

        Sine networks have no neighbours to keep, and a phase of 30 radians leaves half precision few digits.
        """
        fit = values.get("fit") if isinstance(values, Mapping) else None
        if not isinstance(fit, Mapping):
            return values
        values = {**values, "fit": {"recipe": "basis", **fit}}
        store = values.get("store") or {}
        if fit.get("recipe") == "siren" and isinstance(store, Mapping):
            values["store"] = {"neighbours_cache": "none", "dtype": "float32", **store}
        return values
