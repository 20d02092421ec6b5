"""What `arcpipe inspect` says when it ends."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from arcpipe.inspect.samples import View, decibel, known
from arcpipe.progress import counted
from arcpipe.storage import Storage


@dataclass(frozen=True, slots=True)
class SampleReport:
    """One sample that was drawn. `psnr_db` is None without a record, `measured_db` without an original."""

    name: str
    class_name: str
    size: tuple[int, int]
    anchors: int
    psnr_db: float | None
    measured_db: float | None
    tag: str
    warning: str

    @classmethod
    def of(cls, view: View) -> SampleReport:
        return cls(
            name=view.name,
            class_name=view.class_name,
            size=view.cloud.size,
            anchors=len(view.cloud),
            psnr_db=known(view.cloud.psnr),
            measured_db=known(view.measured_db),
            tag=view.place.tag,
            warning=view.warning,
        )


@dataclass(frozen=True, slots=True)
class InspectReport:
    """Files written and samples drawn; `note` says why there are no originals, if there are none."""

    store: Storage
    files: tuple[Path, ...]
    samples: tuple[SampleReport, ...]
    mean_psnr_db: dict[str, float | None]
    note: str

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(f"{sample.name}: {sample.warning}" for sample in self.samples if sample.warning)

    def as_dict(self) -> dict[str, Any]:
        values = asdict(self)
        values.update(store=str(self.store), files=[str(file) for file in self.files], warnings=list(self.warnings))
        return values

    def lines(self) -> list[str]:
        lines = [f"{self.store}: mean PSNR " + ", ".join(f"{s} {decibel(m)}" for s, m in self.mean_psnr_db.items())]
        for sample in self.samples:
            anchors = counted(sample.anchors, "anchor", "anchors")
            what = f"class {sample.class_name}, {sample.size[0]} × {sample.size[1]}, {anchors}"
            measured = f", measured {decibel(sample.measured_db)}" if sample.measured_db is not None else ""
            tag = f" ({sample.tag})" if sample.tag else ""
            lines.append(f"  {sample.name}{tag}: {what}, PSNR {decibel(sample.psnr_db)}{measured}")
        lines += [f"  warning: {text}" for text in self.warnings]
        lines += [f"  note: {self.note}"] if self.note else []
        return lines + [f"wrote {file}" for file in self.files]
