"""What `arcpipe train` and `arcpipe evaluate` can be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from arcpipe.config.section import (
    At,
    Batch,
    Count,
    Edge,
    Few,
    Folder,
    LearningRate,
    Rate,
    Reach,
    Readable,
    Section,
    Seed,
    Share,
    Stages,
    Strength,
    Width,
    Window,
)
from arcpipe.errors import ConfigError
from arcpipe.options import Model, Normalise, Preset, Schedule, Weights

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
                details=[f"found [{pair[0]:g},{pair[1]:g}]"],
                fix=[f"--set augment.{info.field_name}=[{pair[1]:g},{pair[0]:g}]"],
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


WEIGHT_MODELS = ("dws", "ng-gnn", "ng-t", "scalegmn", "mlp")
"""Classifiers of sine networks; all others take clouds."""


class ModelSection(Section):
    """The classifier; `preset` fills what is not given."""

    model: Model = "ptv3"
    """`ptv3` and `ptv1` of clouds, the others of sine networks."""
    preset: Preset | None = None
    """Of PTv3, `plain` (the default) and `small`, the published network, are for clouds of tens of points, `photo` for
    thousands; of PTv1 `small` and `large`. Of the classifiers of sine networks, `full` is the published one and
    `small`, the default, one for two cores."""
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
    start: bool = False
    """Of dws, ng-gnn and ng-t: where all networks began alike, a parameter's value at the start stands beside it."""
    direction: Literal["forward", "both"] = "forward"
    """Of scalegmn: along which directions of the edges messages go."""
    phases: Literal["as-stored", "canonical"] = "as-stored"
    """Of scalegmn: `canonical` brings the phases of all sines into a quarter turn, as was meant to be published."""

    @property
    def size(self) -> Preset:
        """The preset, by default the model's own."""
        return self.preset or ("plain" if self.model == "ptv3" else "small")


class OptimSection(Section):
    """How the classifier learns: by which steps, at which rate, and how long."""

    epochs: Count = 40
    """Times that every cloud is seen."""
    batch_size: Batch = 128
    """Clouds in a step, of all processes together."""
    optimiser: Literal["muon", "adamw"] = "muon"
    """`muon` (the linear layers inside the network by Muon, all else by AdamW), or `adamw` for all."""
    lr: LearningRate = 2e-3
    """Learning rate, at its highest."""
    weight_decay: Strength = 0.05
    """Share of the weights that a step takes away, over the rate."""
    schedule: Schedule = "cosine"
    """Of the rate, after the rise: `cosine` to 0, or `constant`."""
    warmup: Share = 0.05
    """Share of all steps in which the rate rises from 0."""
    label_smoothing: Share = 0.0
    """Share of the wish that is spread evenly over all classes."""
    clip_norm: Annotated[float, Field(ge=0, le=10**9)] = 1.0
    """Gradient norm above which gradients are scaled down; 0 is off."""
    amsgrad: bool = False
    """Of AdamW: the largest of all second moments so far, instead of the present one."""
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


_GRAPHS = {"optimiser": "adamw", "lr": 1e-3, "batch_size": 64, "schedule": "constant", "clip_norm": 10.0}
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
    "mlp": {
        "stream": {"normalise": "per-dim"},
        "augment": _ALONE,
        "optim": {"optimiser": "adamw", "lr": 1e-3, "batch_size": 64, "weight_decay": 1e-3, "clip_norm": 0.0},
    },
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
    model: ModelSection = ModelSection()
    augment: AugmentSection = AugmentSection()
    optim: OptimSection = OptimSection()

    @model_validator(mode="before")
    @classmethod
    def latents_alone(cls, values: Any) -> Any:
        """Files and runs of an older arcpipe say so; what clouds decode to described points as well there."""
        features = values.get("features") if isinstance(values, Mapping) else None
        if not isinstance(features, Mapping):
            return values
        if features.get("kind", "latents") != "latents" or features.get("scale"):
            raise ConfigError(
                "a classifier reads latents: what clouds decode to, and scales, are no features any more.",
                details=["latents of the recipe basis were as good, see CHANGELOG.md"],
                fix=["leave [train.features] out", "arcpipe convert ... --recipe basis"],
            )
        return {key: value for key, value in values.items() if key != "features"}

    @model_validator(mode="before")
    @classmethod
    def defaults_of_model(cls, values: Any) -> Any:
        """What is not given to a classifier of sine networks is as its authors had it (docs/baselines.md)."""
        model = values.get("model") if isinstance(values, Mapping) else None
        defaults = WEIGHT_DEFAULTS.get(model.get("model"), {}) if isinstance(model, Mapping) else {}
        given = {name: values.get(name) or {} for name in defaults}
        filled = {name: {**defaults[name], **held} for name, held in given.items() if isinstance(held, Mapping)}
        return {**values, **filled} if filled else values

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
