"""How a run begins: its folder is new, or holds the same run, or is refused with the difference."""

from __future__ import annotations

import json
import shutil
from itertools import count
from pathlib import Path
from typing import Any

from arcpipe import __version__
from arcpipe.cloud import DecoderRecord
from arcpipe.config import TrainConfig, differences, without_later
from arcpipe.errors import CheckpointError, ConfigError, StoreMismatchError
from arcpipe.files import write_atomically
from arcpipe.store import save_decoder_file
from arcpipe.train import checkpoint
from arcpipe.train.run import FILES, FORMAT, FORMAT_VERSION, RunFolder, StoreFacts, read_config

NO_MATTER = ("out", "store", "device", "threads", "workers", "gpus")
"""Settings that change no number of a run. The store may move: it is recognised by what is in it."""
NO_MATTER_OF_STREAM = ("readers", "prefetch", "cache_mb", "allow_unfinished")
"""Those in the section `stream`."""
HASHES = ("fingerprint", "decoder_sha256", "manifest")


def create_or_continue(
    config: TrainConfig, facts: StoreFacts, decoder: DecoderRecord, *, resume: bool = False, overwrite: bool = False
) -> RunFolder:
    """Make the folder of a run, or find that it is the same run.

    Args:
        resume: Insist that there is a run to continue.
        overwrite: Start again: what a run wrote in this folder is deleted, and nothing else.

    Raises:
        CheckpointError: `path` holds something else or cannot be written, or `resume` and there is nothing.
        StoreMismatchError: it holds a run of other settings or of another store, of which something was saved.
        StoreBusyError: somebody trains in it.
    """
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite cannot be combined.", fix=["give only one of them"])
    path = config.out
    run = RunFolder(path, config, facts)
    if not _is_run(path):
        # What a killed command left of a beginning is no hindrance.
        if path.exists() and (not path.is_dir() or _foreign(path)):
            raise CheckpointError(
                f"{path} is not a run folder; nothing was touched.", fix=[f"the same command with --out {_free(path)}"]
            )
        if resume:
            raise CheckpointError(f"there is no run to continue in {path}.", fix=["the same command without --resume"])
    elif not overwrite:
        changed = _differences(read_config(path), _to_json(config, facts))
        if not changed:
            return run
        if resume or checkpoint.has_checkpoint(run.checkpoint):
            raise StoreMismatchError(
                f"cannot continue {path}: it is a run of other settings or of another store.",
                details=changed,
                fix=[f"the same command with --out {_free(path)}", "or start again in this folder, with --overwrite"],
            )
    _write_new(run, decoder)
    return run


def _is_run(path: Path) -> bool:
    """Whether there is a run in `path`, perhaps a damaged one, but not somebody else's config.json."""
    if not (path / "config.json").is_file():
        return False
    try:
        read_config(path)
    except CheckpointError:
        return not _foreign(path)
    return True


def _foreign(path: Path) -> bool:
    """Whether something in a folder is not of a run."""
    ours = {".lock", *FILES, *(f"{name}.partial" for name in FILES)}
    return any(entry.name not in ours for entry in path.iterdir())


def _free(path: Path) -> Path:
    """A path that is not taken: `runs/digits-2`."""
    tries = (path.with_name(f"{path.name}-{number}") for number in count(2))
    return next(candidate for candidate in tries if not candidate.exists())


def _write_new(run: RunFolder, decoder: DecoderRecord) -> None:
    try:
        run.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"the run folder {run.path} cannot be made.", details=[str(error)], fix=["another folder: --out runs/NAME"]
        ) from None
    with run.held():
        for name in FILES:
            shutil.rmtree(run.path / name) if (run.path / name).is_dir() else (run.path / name).unlink(missing_ok=True)
        save_decoder_file(run.path / "decoder.safetensors", decoder)
        document = json.dumps(_to_json(run.config, run.facts), indent=1)
        write_atomically(run.path / "config.json", document.encode())


def _to_json(config: TrainConfig, facts: StoreFacts) -> dict[str, Any]:
    values = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "arcpipe": __version__,
        "config": config.model_dump(mode="json"),
        "store": vars(facts),
    }
    return json.loads(json.dumps(values, default=str))


def _differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Settings, then facts of the store, then how the store was made: whatever changes a number of the run."""
    for document in (before, after):
        for name in NO_MATTER:
            document["config"].pop(name, None)
        for name in NO_MATTER_OF_STREAM:
            document["config"].get("stream", {}).pop(name, None)
    changed = differences(without_later(before["config"]), without_later(after["config"]))
    old, new = before["store"], after["store"]
    for name in ("fingerprint", "decoder_sha256", "classes", "train_split", "test_split", "clouds", "manifest"):
        if old.get(name) != new.get(name):
            shown = [str(value)[:8] if name in HASHES else value for value in (old.get(name), new.get(name))]
            changed.append(f"store.{name}: was {shown[0]}, now {shown[1]}")
    if old.get("fingerprint") != new["fingerprint"]:
        made = [
            {key: facts.get("convert", {}).get(key) for key in ("source", "fit", "store", "seed")}
            for facts in (old, new)
        ]
        changed += differences(made[0], made[1], "convert.")
    return changed
