"""The card of a result: what it was measured by, so that it can stand beside numbers of other methods.

Methods of this field differ in what they may see (labels or other networks in the fit), in how many clouds they make of
an image, and in what chose the weights. A number without these facts cannot be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from arcpipe.config import ConvertConfig, TrainConfig
from arcpipe.devices import choose_device
from arcpipe.errors import ConfigError
from arcpipe.store import open_store

if TYPE_CHECKING:
    from arcpipe.convert.report import ConvertReport
    from arcpipe.train.report import TrainReport

CHOSEN_BY = {"last": "nothing: those of the last epoch", "best": "the held-out part of the training split"}
"""What chose the weights that were evaluated, by `weights` of an evaluation."""


@dataclass(frozen=True)
class Card:
    """Facts of one training and of its conversion.

    `numbers` and `bytes`: mean of an image of the training split, and of the whole store. `psnr`: dB, of the training
    split. `seconds` of the training.
    """

    labels: str
    teacher: str
    views: str
    fits: int
    numbers: float
    bytes: float
    psnr: float
    augment: str
    model: str
    head: str
    parameters: int
    epochs: int
    chosen_by: str
    seconds: float
    device: str
    command: str

    @classmethod
    def of(
        cls, convert: ConvertConfig, train: TrainConfig, report: ConvertReport, trained: TrainReport, command: str
    ) -> Card:
        """The card of a finished training; `command` makes it again."""
        split = report.splits[train.stream.train_split]
        images = sum(each.samples for each in report.splits.values())
        decoder = open_store(report.store).decoder
        around = {"concat": 2, "basis": 3, "siren": 0}[decoder.kind]  # row and column, and the anchor's scale
        return cls(
            labels="in the training of the classifier alone",
            teacher="none",
            views="none of changed pixels" if convert.fit.views == 1 else f"{convert.fit.views} of cropped pixels",
            fits=convert.fit.clouds_an_image,
            numbers=split.points * (decoder.latent_dim + around) / max(split.samples, 1),
            bytes=sum(report.bytes_by_array.values()) / max(images, 1),
            psnr=split.mean_psnr or 0.0,
            augment=", ".join(train.augment.apply) or "none",
            model=trained.model,
            head="one linear layer",
            parameters=trained.parameters,
            epochs=trained.epochs,
            chosen_by=CHOSEN_BY["last"],
            seconds=trained.seconds,
            device=choose_device(train.device).type,
            command=command,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> Card:
        """The card of a result.

        Raises:
            ConfigError: a fact is missing.
        """
        missing = [field.name for field in fields(cls) if field.name not in values]
        if missing:
            raise ConfigError(
                f"{where} has no complete card: a number cannot be compared without it.",
                details=[f"missing: {', '.join(missing)}"],
                fix=["measure it again with arcpipe run"],
            )
        return cls(**{field.name: values[field.name] for field in fields(cls)})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
