"""A group of settings, and the bounds of numbers and the checks of paths in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, WrapValidator
from pydantic_core import PydanticCustomError

from arcpipe.options import SEEDS
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


def checked_path(value: Any, handler: Callable[[Any], Any]) -> Any:
    """A validator: text or a path must be one that can exist."""
    return handler(checked(value) if isinstance(value, (str, Path)) else value)


At = Annotated[Storage, PlainValidator(_as_storage, json_schema_input_type=str), PlainSerializer(str)]
"""Where a store is: a path, or an address in a bucket."""
Folder = Annotated[Path, WrapValidator(_as_folder)]
"""A folder on this machine that something is written into."""
Readable = Annotated[Path, WrapValidator(checked_path)]
"""A file or folder that is only read."""


S = TypeVar("S", bound="Section")


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys, and numbers that are none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, str_max_length=2**16)
