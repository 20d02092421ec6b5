"""Every setting of arcpipe: one pydantic model per room. Flags, TOML keys and stored configs share these names."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from arcpipe.errors import ConfigError
from arcpipe.files import read_plain
from arcpipe.options import SEEDS, Cache, Dtype, Features, Model, Normalise, Preset, Recipe, Schedule, Weights
from arcpipe.paths import checked
from arcpipe.storage import Storage, folder_path, storage_at

# Every number has bounds. The upper ones are where it would overflow, or could only be a slip of the hand.
Count = Annotated[int, Field(ge=1, le=10**9)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=SEEDS.start, lt=SEEDS.stop)]
Few = Annotated[int, Field(ge=1, le=1024)]
"""Threads, processes, layers."""
Width = Annotated[int, Field(ge=1, le=2**14)]
"""Numbers in a vector: channels, hidden units, a latent."""
Stages = Annotated[tuple[Width, ...], Field(min_length=1, max_length=16)]
"""One number for each stage of a network."""
Batch = Annotated[int, Field(ge=1, le=2**20)]
"""Clouds in a step."""
Edge = Annotated[int, Field(ge=1, le=2**16)]
"""Of a picture, pixels."""
Window = Annotated[float, Field(ge=1e-6, le=1000)]
"""Area of a part of a picture, as a share of the whole."""
Reach = Annotated[float, Field(ge=0, le=2**16)]
"""How far something moves, pixels."""
Strength = Annotated[float, Field(ge=0, le=1000)]
Rate = Annotated[float, Field(gt=0, le=1000)]
LearningRate = Annotated[float, Field(gt=0, le=1e38)]
"""What float32 holds: a rate that is too high makes a loss that is no number, which is told in its place."""
Seconds = Annotated[float, Field(gt=0, le=10**9)]


def _as_storage(value: Any) -> Storage:
    if not isinstance(value, (str, Path, Storage)):
        raise PydanticCustomError("storage", "expected a path, or an address in a bucket")
    return storage_at(value)


def _as_folder(value: Any, handler: Callable[[Any], Path]) -> Path:
    return folder_path(value) if isinstance(value, (str, Path)) else handler(value)


def _checked(value: Any, handler: Callable[[Any], Any]) -> Any:
    return handler(checked(value) if isinstance(value, (str, Path)) else value)


At = Annotated[Storage, PlainValidator(_as_storage, json_schema_input_type=str), PlainSerializer(str)]
"""Where a store is: a path, or an address in a bucket."""
Folder = Annotated[Path, WrapValidator(_as_folder)]
"""A folder on this machine that something is written into."""
Readable = Annotated[Path, WrapValidator(_checked)]
"""A file or folder that is only read."""


S = TypeVar("S", bound="Section")


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys, and numbers that are none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, str_max_length=2**16)


class SourceSection(Section):
    """Which images, and what shape they take before they are fitted."""

    source: Annotated[str, WrapValidator(_checked)]
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
    "fast": {
        "steps": 275,
        "lr": 0.01,
        "schedule": "cosine",
        "betas": (0.8, 0.9),
        "pretrain_lr": 0.005,
        "pretrain_betas": (0.9, 0.999),
    },
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


class FitSection(Section):
    """How one image becomes one cloud (METHOD of the thesis, section 3.2 and appendix A)."""

    recipe: Recipe = "thesis"
    """A set of defaults. `basis`: a decoder that is linear in the latents, which are solved for. `thesis`: the thesis's
    procedure. `fast`: the same at the same PSNR in 275 steps instead of 500. `siren`: a sine network for each image."""
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
    hidden: Annotated[tuple[Width, ...], Field(max_length=64)] | None = None
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
    """Whether every other view is mirrored, left to right, by chance."""
    decoder: Annotated[str, WrapValidator(_checked)] | None = None
    """A store or a safetensors file whose decoder is used instead of pretraining one."""

    @model_validator(mode="before")
    @classmethod
    def defaults_of_recipe(cls, values: Any) -> Any:
        """What is not given comes from the recipe; an unknown recipe is left to the check of the field."""
        if not isinstance(values, Mapping):
            return values
        values = {key: value for key, value in values.items() if key not in GONE or value != GONE[key]}
        recipe = values.get("recipe")
        if values.get("decoder_kind") in ("basis", "siren") and recipe is None:
            values["recipe"] = recipe = values["decoder_kind"]
        return {**RECIPES.get(recipe, {}), **values} if isinstance(recipe, str) else values

    @model_validator(mode="after")
    def kind_of_recipe(self) -> Self:
        if self.decoder_kind != RECIPES[self.recipe].get("decoder_kind", "concat"):
            raise ConfigError(
                "fit.decoder_kind does not fit the recipe.",
                details=[f"found decoder_kind {self.decoder_kind} with the recipe {self.recipe}"],
                fix=[f"--recipe {'thesis' if self.decoder_kind == 'concat' else self.decoder_kind}"],
            )
        return self

    @model_validator(mode="after")
    def nothing_is_ignored(self) -> Self:
        others = dict.fromkeys(name for names in OF_KIND.values() for name in names)
        usual = {name: field.default for name, field in type(self).model_fields.items()} | RECIPES[self.recipe]
        unread = [name for name in others if name not in OF_KIND[self.decoder_kind]]
        ignored = [name for name in unread if getattr(self, name) != usual[name]]
        if ignored:
            readers = [kind for kind, names in OF_KIND.items() if ignored[0] in names]
            recipe = f"--recipe {'thesis' if 'concat' in readers else readers[0]}"
            raise ConfigError(
                f"the recipe {self.recipe} does not read {', '.join(f'fit.{name}' for name in ignored)}.",
                fix=[recipe, "or leave it out"],
            )
        return self

    @model_validator(mode="after")
    def enough_anchors(self) -> Self:
        if self.latents >= 1 and self.latents < self.neighbours:
            raise ConfigError(
                "--latents is too small.",
                details=[f"expected at least --neighbours = {self.neighbours}", f"found {self.latents:g}"],
                fix=[f"--latents {self.neighbours}", "or a share of the pixels, below 1, for example --latents 0.05"],
            )
        return self

    @model_validator(mode="after")
    def repeats_or_views(self) -> Self:
        if self.repeats > 1 and self.views > 1:
            raise ConfigError("--repeats and --views cannot be combined.", fix=["give only one of them"])
        return self

    @model_validator(mode="after")
    def one_network(self) -> Self:
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
    """One worker process for each of so many GPUs."""
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

    @field_validator("fit", mode="before")
    @classmethod
    def basis_by_default(cls, values: Any) -> Any:
        """A conversion that names no recipe takes `basis`; `FitSection` by itself stands for the thesis."""
        if isinstance(values, Mapping) and "recipe" not in values:
            return {**values, "recipe": "basis"}
        return values

    @model_validator(mode="after")
    def sirens_on_cpus(self) -> Self:
        if self.fit.decoder_kind == "siren" and self.run.gpus is not None:
            raise ConfigError(
                "the recipe siren is fitted on CPUs: it has no --gpus.", fix=["--workers N", "or leave --gpus out"]
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def store_of_sirens(cls, values: Any) -> Any:
        """Sine networks have no neighbours to keep, and a phase of 30 radians leaves half precision few digits."""
        fit = values.get("fit") if isinstance(values, Mapping) else None
        if isinstance(fit, Mapping) and fit.get("recipe") == "siren":
            given = values.get("store") or {}
            return {**values, "store": {"neighbours_cache": "none", "dtype": "float32", **given}}
        return values


Augmentation = Literal[
    "noise",
    "mask",
    "push",
    "rotate",
    "flip",
    "zoom",
    "crop",
    "displace",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "arcmix",
    "translate",
    "translate-published",
    "jitter",
    "noise-published",
    "drop",
    "stretch",
    "permute",
]
OF_NETWORKS: tuple[Augmentation, ...] = (
    "translate",
    "translate-published",
    "rotate",
    "jitter",
    "noise-published",
    "drop",
    "stretch",
    "permute",
)
"""Augmentations of sine networks, in their order. All but `rotate` are of nothing else."""


class AugmentSection(Section):
    """Augmentations on the cloud, on the fly, in this order (thesis fig. 3; those of images as in torchvision).

    From `translate` on: of sine networks.
    """

    apply: tuple[Augmentation, ...] = ("mask", "arcmix")
    """Which of the changes below are made, in this order; [] for none."""
    noise: Strength = 0.001
    """Standard deviation of the Gaussian added to latents (before normalisation)."""
    mask: Share = 0.3
    """Share of the points that is dropped."""
    push: Reach = 2.0
    """Every point moves uniformly by at most so many pixels on each axis."""
    shift: Reach = 0.0
    """With `push`: the whole cloud also moves uniformly by at most so many pixels on each axis."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 180.0
    """Rotate about the middle of the image, uniformly within so many degrees either way."""
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Chance of a flip, for each axis by itself."""
    flip_axes: Literal["both", "rows", "columns"] = "both"
    """`columns` flips left and right only, as photographs may be; `rows` upside down only."""
    zoom: tuple[Window, Window] = (0.5, 1.0)
    """Least and most area of the window that becomes the picture, as a share of the image's (`RandomResizedCrop`)."""
    crop: Annotated[int, Field(ge=0, le=2**16)] = 4
    """The picture moves by whole pixels, at most so many on each axis; what leaves it is dropped (`RandomCrop`)."""
    brightness: Strength = 0.2
    """All colours are multiplied by a number, uniform within so much of 1 either way (as `ColorJitter`)."""
    contrast: Strength = 0.2
    """So are the differences from the middle grey."""
    saturation: Strength = 0.2
    """So are the differences from a pixel's own grey."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Hues turn uniformly within such a share of the circle either way."""
    exact: bool = True
    """Latents change with the picture (of the kind `basis`). False: `rotate` and `flip` only move positions."""
    arcmix_alpha: Annotated[float, Field(ge=1e-3, le=1000)] = 1.0
    """The mixing share is drawn from Beta(alpha, alpha)."""
    arcmix: Literal["points", "box"] = "points"
    """`points`: random subsets of both clouds; `box`: a rectangle of one cloud replaces that of the other (CutMix)."""
    translate: Strength = 0.25
    """The picture of a network moves uniformly by at most so many halves of its side on each axis."""
    jitter: Strength = 0.1
    """Gaussian noise on a network's parameters, in standard deviations of their tensor (from a shared start, if any).
    `noise-published` adds so much of the standard deviation itself, without drawing anything."""
    drop: Share = 0.01
    """Share of a network's parameters that become 0; the others are divided by what is left."""
    stretch: tuple[Rate, Rate] = (0.8, 1.2)
    """Least and most factor of a network's first weights: the picture shrinks or grows about its middle."""

    @field_validator("apply")
    @classmethod
    def once_and_in_order(cls, names: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
        """The order of the words changes nothing, so it must not make another run of the same one."""
        return tuple(name for name in get_args(Augmentation) if name in names)

    @field_validator("zoom", "stretch")
    @classmethod
    def least_before_most(cls, pair: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
        if pair[0] > pair[1]:
            raise ConfigError(
                f"augment.{info.field_name} has its least value behind its most.",
                details=[f"found {list(pair)}"],
                fix=[f"--set augment.{info.field_name}={[pair[1], pair[0]]}".replace(" ", "")],
            )
        return pair

    @model_validator(mode="after")
    def one_of_a_kind(self) -> Self:
        for ours, published in (("translate", "translate-published"), ("jitter", "noise-published")):
            if {ours, published} <= set(self.apply):
                raise ConfigError(
                    f"--augment {ours},{published} would do the same thing twice.",
                    fix=[f"--augment {ours}", f"--augment {published} (with its fault)"],
                )
        return self


class FeaturesSection(Section):
    """What the classifier is given of every point."""

    kind: Features = "latents"
    """`latents`: as in the thesis. `decoded`: what the cloud decodes to around the point. `both` in turn."""
    windows: Annotated[tuple[Edge, ...], Field(max_length=64)] = (7,)
    """Edges of the decoded windows around a point, pixels, odd."""
    order: Annotated[int, Field(ge=0, le=1024)] = 3
    """A window's cosine coefficients (u, v) up to u + v = order: 10 a channel for 3."""
    scale: bool = False
    """Of stores of the kind `basis`: also the binary logarithm of the anchor's scale."""
    cache: Folder | None = None
    """Folder for decoded features; by default `.features` beside the run's folder."""

    @field_validator("windows")
    @classmethod
    def odd(cls, windows: tuple[int, ...]) -> tuple[int, ...]:
        if not windows or any(window % 2 == 0 for window in windows):
            raise ConfigError(
                "features.windows must be odd numbers: a window has its point in the middle.",
                details=[f"found {list(windows)}"],
                fix=["--set features.windows=[7]"],
            )
        return windows

    @model_validator(mode="after")
    def waves_fit(self) -> Self:
        if min(self.windows) <= self.order:
            raise ConfigError(
                "features.order is too high for the smallest of features.windows.",
                details=[f"expected at most {min(self.windows) - 1}", f"found {self.order}"],
                fix=[f"--set features.order={min(self.windows) - 1}"],
            )
        return self


WEIGHT_MODELS = ("dws", "ng-gnn", "ng-t", "scalegmn", "mlp")
"""Classifiers of sine networks; all others take clouds."""


class ModelSection(Section):
    """The classifier; `preset` fills what is not given."""

    model: Model = "ptv3"
    """`ptv3` and `ptv1` of clouds, the others of sine networks."""
    preset: Preset = "small"
    """`small`: for clouds of 10 to 100 points; of PTv3, the published network (0.45 M parameters). `large`: more.
    `plain`: PTv3 without convolutions, which reads small clouds best. Of the classifiers of sine networks,
    `full` is the published one and `small` one for two cores."""
    channels: Stages | None = None
    """Numbers a point, by stage."""
    depths: Stages | None = None
    """Blocks, by stage."""
    heads: Stages | None = None
    """Heads of attention, by stage, of PTv3."""
    patch: Edge | None = None
    """Points that attend to each other, along the curve, of PTv3."""
    grid_px: Annotated[float, Field(ge=1e-3, le=2**16)] | None = None
    """Voxel edge before the first stage, pixels; of PTv1, the unit of distances."""
    grid_origin: Literal["cloud", "image"] = "cloud"
    """Where PTv3's voxels begin: at the cloud's own minimum, so that shifts change nothing, or the image's corner."""
    backend: Literal["auto", "torch", "spconv", "torch-scatter"] = "auto"
    """Who computes PTv3: `auto` is compiled loops on a CPU, else plain torch; the last two replace one operation."""
    neighbours: Few | None = None
    """Points that a point of PTv1 attends to."""
    mlp_ratio: Annotated[float, Field(gt=0, le=64)] | None = None
    """Width of the MLPs inside the blocks, in channels."""
    drop_path: Share | None = None
    """Share of the branches that a step of training leaves out."""
    bias: Literal["table", "network"] | None = None
    """How PTv3's attention knows distances: a table of rows and one of columns, as published, or a small network."""
    convs: bool | None = None
    """Whether PTv3 begins every block with a convolution over voxels, as published, or leaves places to the bias."""
    width: Width | None = None
    """Channels of a classifier of sine networks."""
    layers: Few | None = None
    """Of a classifier of sine networks."""
    dropout: Share | None = None
    """Of a classifier of sine networks: share of the numbers that a step leaves out."""
    rows: Width | None = None
    """Of ng-gnn and ng-t: fixed random waves by which a number is described."""
    norm: Literal["graph", "batch"] = "graph"
    """Of ng-gnn: `batch` is the published norm, by which predictions depend on what else is in their batch."""
    direction: Literal["forward", "both"] = "forward"
    """Of scalegmn: along which directions of the edges messages go."""
    phases: Literal["as-stored", "canonical"] = "as-stored"
    """Of scalegmn: `canonical` brings the phases of all sines into a quarter turn, as was meant to be published."""


class OptimSection(Section):
    """How the classifier learns: AdamW, its rate, and how long."""

    epochs: Count = 40
    """Times that every cloud is seen."""
    batch_size: Batch = 128
    """Clouds in a step, of all processes together."""
    lr: LearningRate = 2e-3
    """Learning rate of AdamW, at its highest."""
    weight_decay: Strength = 1e-3
    """Of AdamW, times the rate."""
    schedule: Schedule = "cosine"
    """Of the rate, after the rise: `cosine` to 0, or `constant`."""
    warmup: Share = 0.05
    """Share of all steps in which the rate rises from 0."""
    label_smoothing: Share = 0.0
    """Share of the wish that is spread evenly over all classes."""
    clip_norm: Annotated[float, Field(ge=0, le=10**9)] = 0.0
    """Gradient norm above which gradients are scaled down; 0 is off."""
    amsgrad: bool = False
    """The largest of all second moments so far, instead of the present one."""
    ema: Share = 0.0
    """Share of a moving average of the weights that stays after a step; the average is what is reported. 0 is off."""
    evaluate_every: Count = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """In what training multiplies; weights and sums are float32. `auto`: bfloat16 on GPUs, float32 on CPUs."""


class StreamSection(Section):
    """How clouds come from the store."""

    train_split: str = "train"
    """The split that is trained on."""
    test_split: str | None = None
    """The split that is evaluated; by default `test`, else `val`."""
    normalise: Normalise = "per-dim"
    """`per-layer`: of sine networks, one mean and deviation for the weights and one for the biases of every layer."""
    block: Count = 32
    """Neighbouring samples of a part that are read together."""
    window: Count = 8
    """Parts whose blocks are mixed."""
    pool: Count = 4096
    """Samples shuffled together in memory."""
    validation: Share = 0.0
    """Share of the training split that is held out: training does not see it, and the best weights are chosen by it."""
    readers: Few = 2
    """Threads that read blocks."""
    prefetch: Few = 4
    """Batches kept ready."""
    batch_points: Count | None = 65536
    """A batch ends before the cloud that would take it over so many points: bounds memory for large clouds."""
    cache_mb: Annotated[int, Field(ge=0, le=10**9)] = 1024
    """A split of at most so many megabytes is kept in memory; the order is the same either way."""
    allow_unfinished: bool = False
    """Train on what an unfinished store has."""


_GRAPHS = {"lr": 1e-3, "batch_size": 64, "schedule": "constant", "clip_norm": 10.0}
_ALONE: dict[str, Any] = {"apply": ()}
_CHANGED: dict[str, Any] = {"apply": ("translate", "rotate", "jitter", "drop", "stretch"), "rotate": 45.0}
WEIGHT_DEFAULTS: dict[Any, dict[str, dict[str, Any]]] = {
    "dws": {
        "stream": {"normalise": "per-dim"},
        "augment": _CHANGED,
        "optim": {**_GRAPHS, "clip_norm": 0.0, "weight_decay": 5e-4, "amsgrad": True, "warmup": 0.0},
    },
    "ng-gnn": {
        "stream": {"normalise": "per-layer"},
        "augment": _CHANGED,
        "optim": {**_GRAPHS, "weight_decay": 5e-4, "amsgrad": True},
    },
    "scalegmn": {"stream": {"normalise": "none"}, "augment": _ALONE, "optim": {**_GRAPHS, "weight_decay": 0.01}},
    "mlp": {"stream": {"normalise": "per-dim"}, "augment": _ALONE, "optim": {"lr": 1e-3, "batch_size": 64}},
}
WEIGHT_DEFAULTS["ng-t"] = WEIGHT_DEFAULTS["ng-gnn"]
"""Defaults of `TrainConfig` by classifier, where they are not those of clouds."""


class TrainConfig(Section):
    """Everything `arcpipe train` is told."""

    store: At
    """The store to train on."""
    out: Folder
    """The run's folder."""
    seed: Seed = 0
    """Everything random derives from it."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: Few | None = None
    """Threads of each process; by default the cores divided by the processes."""
    workers: Few | None = None
    """Train in so many processes on the CPU; numbers change by rounding only."""
    gpus: Few | None = None
    """Train in one process for each of so many GPUs."""
    stream: StreamSection = StreamSection()
    features: FeaturesSection = FeaturesSection()
    model: ModelSection = ModelSection()
    augment: AugmentSection = AugmentSection()
    optim: OptimSection = OptimSection()

    @model_validator(mode="before")
    @classmethod
    def defaults_of_model(cls, values: Any) -> Any:
        """What is not given to a classifier of sine networks is as its authors had it (docs/baselines.md)."""
        model = values.get("model") if isinstance(values, Mapping) else None
        defaults = WEIGHT_DEFAULTS.get(model.get("model"), {}) if isinstance(model, Mapping) else {}
        return {**values, **{name: {**own, **(values.get(name) or {})} for name, own in defaults.items()}}

    @model_validator(mode="after")
    def one_kind_of_process(self) -> Self:
        if self.workers is not None and self.gpus is not None:
            raise ConfigError("--workers and --gpus cannot be combined.", fix=["give only one of them"])
        if self.gpus is not None and self.device == "cpu":
            raise ConfigError("--gpus and --device cpu cannot be combined.", fix=["--workers N for N processes"])
        if self.workers is not None and self.device not in ("auto", "cpu"):
            raise ConfigError("--workers are processes on the CPU.", fix=["--gpus N for one process per GPU"])
        return self


class EvaluateSection(Section):
    """What is asked about a trained run, on a split as it is or changed."""

    split: str | None = None
    weights: Weights = "last"
    """`best`: those that the validation split chose, where the store has one beside the reported split."""
    push: Reach = 0.0
    """Every anchor moves by at most so many pixels on each axis."""
    shift: Reach = 0.0
    """The whole cloud moves by at most so many pixels on each axis."""
    displace: bool = False
    """The whole cloud is put at a random place inside its image."""
    repeats: Count | None = None
    """Average at most so many clouds of each image; by default all."""
    views: Few = 1
    """Average the answers to a cloud as it is stored and to this many less one changed as in training, unmixed."""


class EvaluateConfig(EvaluateSection):
    """Everything `arcpipe evaluate` is told."""

    run: Readable
    store: At
    out: Folder | None = None
    """A folder for the figures of calibration and confusion."""
    batch_size: Batch = 256
    seed: Seed = 0
    device: str = "auto"
    threads: Few | None = None
    """By default one per core."""


def build(kind: type[S], values: Mapping[str, Any], where: str = "the command line") -> S:
    """Validate `values` into a section; every complaint becomes one `ConfigError` that names key and nearest key."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _config_error(kind, error, where) from None
    except ConfigError as error:
        if ".toml" not in where:
            raise
        what, *details = (_as_keys(text) for text in (error.what, *error.details))
        raise ConfigError(f"{where}: {what}", details=details, fix=map(_as_keys, error.fix)) from None


def _as_keys(text: str) -> str:
    """Advice about options as advice about keys of a file: `--pad 100` is `pad = 100` there."""
    text = re.sub(r"--set ([\w.]+)=", r"\1 = ", text)
    return re.sub(r"--([a-z][a-z-]*)( (?=[\dS]))?", lambda m: m[1].replace("-", "_") + (" = " if m[2] else ""), text)


def sectioned(kind: type[Section], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Put settings into the sections that have them: `{"epochs": 3}` becomes `{"optim": {"epochs": 3}}`.

    What is a table of settings, or no section's, stays where it is.

    Raises:
        ConfigError: no section has such a setting (names the nearest one).
    """
    sections = {name: field.annotation for name, field in kind.model_fields.items()}
    homes = {
        key: name
        for name, section in sections.items()
        if isinstance(section, type) and issubclass(section, Section)
        for key in section.model_fields
    }
    placed: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and key in sections:
            placed[key] = {**placed.get(key, {}), **value}
        elif key in homes:
            placed[homes[key]] = {**placed.get(homes[key], {}), key: value}
        elif key in sections:
            placed[key] = value
        else:
            near = difflib.get_close_matches(key, [*homes, *sections], n=1)
            raise ConfigError(f"there is no setting {key!r}.", details=[f"near it: {name}" for name in near])
    return placed


LATER: dict[str, dict[str, Any]] = {
    "source": {"splits": None, "held_out": 0.2},
    "fit": {
        "decoder_kind": "concat",
        "damping": 0.01,
        "patch": 0.0,
        "views": 1,
        "view_flip": True,
        "variant": "siren",
        "start": "shared",
        "omega": 30.0,
        "stop_db": 0.0,
    },
    "store": {"bits": 8},
    "features": {"scale": False},
    "augment": {
        "zoom": [0.5, 1.0],
        "crop": 4,
        "brightness": 0.2,
        "contrast": 0.2,
        "saturation": 0.2,
        "hue": 0.05,
        "exact": True,
        "translate": 0.25,
        "jitter": 0.1,
        "drop": 0.01,
        "stretch": [0.8, 1.2],
    },
    "optim": {"ema": 0.0, "precision": "auto", "amsgrad": False},
    "stream": {"validation": 0.0},
}
"""Settings that came after stores and runs had been made, with the value that changes nothing."""


def without_later(values: Mapping[str, Any]) -> dict[str, Any]:
    """Sections without those of `LATER` that change nothing, so that what was made before keeps its name and hash.

    For the same reason `fit` says `whiten`: a setting that is gone, but from the first store on it was in the hash.
    """
    kept = {
        section: {key: value for key, value in held.items() if key not in later or value != later[key]}
        if isinstance(held, Mapping) and (later := LATER.get(section))
        else held
        for section, held in values.items()
    }
    return {**kept, "fit": {**kept["fit"], "whiten": False}} if isinstance(kept.get("fit"), Mapping) else kept


def with_later(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same sections with what `without_later` leaves out."""
    return {
        section: {**LATER.get(section, {}), **held} if isinstance(held, Mapping) else held
        for section, held in values.items()
    }


def read_toml(path: Path, fix: str = "") -> dict[str, Any]:
    """Read a TOML file, or say which line cannot be read. `fix`: what helps where there is no such file."""
    try:
        return tomllib.loads(read_plain(path).decode("utf-8"))
    except FileNotFoundError:
        near = [str(path.with_name(name)) for name in _names_like(path)]
        raise ConfigError(
            f"there is no file {path}.",
            details=[f"looked for in {Path.cwd()}", *([f"near it: {', '.join(near)}"] if near else [])],
            fix=[fix] if fix else [],
        ) from None
    except (OSError, UnicodeDecodeError, RecursionError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML.", details=[str(error)]) from None


def _names_like(path: Path) -> list[str]:
    """TOML files beside `path`, those of the nearest names first."""
    try:
        there = sorted(file.name for file in path.absolute().parent.glob("*.toml"))
    except OSError:
        return []
    return difflib.get_close_matches(path.name, there, n=3, cutoff=0.4)


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Name every setting that differs: `fit.steps: was 500, now 200`."""
    lines: list[str] = []
    for key in sorted({*before, *after}):
        old, new, name = before.get(key), after.get(key), f"{prefix}{key}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{name}.")
        elif old != new:
            lines.append(f"{name}: was {old}, now {new}")
    return lines


def _config_error(kind: type[Section], error: ValidationError, where: str) -> ConfigError:
    details, fix = [], []
    for problem in error.errors():
        line, advice = _explain(kind, problem)
        details.append(line)
        fix += advice
    return ConfigError(f"{where} has a setting that cannot be used.", details=details, fix=fix)


def _explain(kind: type[Section], problem: ErrorDetails) -> tuple[str, list[str]]:
    """What is wrong with one key, and what would be right where that can be guessed."""
    location, found = [str(part) for part in problem["loc"]], problem["input"]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = _keys(kind, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1)
        return f"{key}: unknown key", [".".join([*location[:-1], near[0]]) if near else f"known: {', '.join(known)}"]
    if problem["type"] == "missing":
        return f"{key}: missing", []
    if problem["type"] == "model_type":
        return f"{key}: expected a table of settings, found {found!r}", [f"[{key}]"]
    line = f"{key}: {problem['msg'][0].lower()}{problem['msg'][1:]}, found {found!r}"
    expected = problem.get("ctx", {}).get("expected", "").replace(" or ", ", ").replace("'", "").split(", ")
    return line, difflib.get_close_matches(str(found), expected, n=1) if problem["type"] == "literal_error" else []


def _keys(kind: type[Section], path: list[str]) -> list[str]:
    """The keys known at `path` inside a section."""
    for name in path:
        if name.isdigit():  # a place in a list of sections
            continue
        annotation = kind.model_fields[name].annotation if name in kind.model_fields else None
        choices = [annotation, *get_args(annotation)]  # `Section`, `Section | None`, `tuple[Section, ...] | None`
        choices += [inner for choice in choices for inner in get_args(choice)]
        inner = [choice for choice in choices if isinstance(choice, type) and issubclass(choice, Section)]
        if not inner:
            return []
        kind = inner[0]
    return sorted(kind.model_fields)
