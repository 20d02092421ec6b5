"""The ground floor: errors that travel, seeds that stay, clouds that join and come apart again."""

from __future__ import annotations

import inspect
import pickle  # only here: Dask sends errors this way

import numpy as np
import pytest

from arcpipe import errors, seeds
from arcpipe.cloud import Cloud, CloudBatch, DecoderRecord, NetworkRecord
from arcpipe.progress import Progress, byte_size, duration, pace

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.ArcpipeError)]


@pytest.mark.parametrize("kind", KINDS)
def test_errors_survive_the_trip_from_a_worker(kind: type[errors.ArcpipeError]) -> None:
    error = kind("what", details=["where"], fix=["do this"])
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (kind, "what\n  where\n  try: do this")


def test_seeds_are_the_same_for_ever_and_tell_types_apart() -> None:
    assert seeds.derive_seed(0, "train/cats/1.jpg", 0) == seeds.derive_seed(0, "train/cats/1.jpg", 0)
    assert seeds.derive_seed(1, "a") == 4610687093479912873
    assert len({seeds.derive_seed("1"), seeds.derive_seed(1), seeds.derive_seed("1", ""), seeds.derive_seed()}) == 4


def _cloud(k: int, seed: int) -> Cloud:
    rng = np.random.default_rng(seed)
    return Cloud(
        positions=rng.integers(0, 5, (k, 2)).astype(np.uint16),
        latents=rng.normal(size=(k, 3)).astype(np.float32),
        size=(5, 4),
        relative=(0.5, 2.0),
        neighbours=rng.integers(0, max(k, 1), (20, 4)).astype(np.uint16),
        label=seed,
        sample_id=seed,
        path=f"{seed}.png",
    )


def test_clouds_join_and_come_apart() -> None:
    clouds = [_cloud(k, seed) for seed, k in enumerate([4, 9, 5])]
    batch = CloudBatch.join(clouds)
    assert batch.offsets.tolist() == [0, 4, 13, 18]
    for cloud, again in zip(clouds, batch, strict=True):
        np.testing.assert_array_equal(cloud.latents, again.latents)
        np.testing.assert_array_equal(cloud.neighbours, again.neighbours)
        assert (cloud.label, cloud.size, cloud.relative, cloud.path) == (
            again.label,
            again.size,
            again.relative,
            again.path,
        )
    assert len(CloudBatch.join([], latent_dim=3)) == 0


def test_decoder_hash_sees_every_number() -> None:
    def record(value: float) -> DecoderRecord:
        weights = (np.zeros((6, 8), np.float32), np.full((3, 6), value, np.float32))
        return NetworkRecord(weights, (np.zeros(6, np.float32), np.zeros(3, np.float32)), 2, 2)

    assert record(0).sha256 == record(0).sha256 != record(1e-7).sha256
    again = NetworkRecord.from_arrays(record(1).arrays(), 2, 2)
    assert (again.sha256, again.channels, again.hidden) == (record(1).sha256, 3, (6,))


def test_progress_prints_plain_lines_where_no_terminal_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arcpipe.progress.PLAIN_LINE_EVERY_S", 0.0)
    with Progress("convert", 10, "images", done=2) as progress:
        progress.update(5, psnr="30.00 dB")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("convert: 5/10 images (50 %), ")
    assert "psnr 30.00 dB" in err


def test_words_for_times_and_sizes() -> None:
    assert [duration(s) for s in (5, 65, 3700)] == ["5 s", "1 min 05 s", "1 h 01 min"]
    paces = [pace(rate, "images") for rate in (21.44, 1, 0.04, 0.001, 0)]
    assert paces == ["21.4 images/s", "1.0 images/s", "2.4 images/min", "3.6 images/h", "0.0 images/h"]
    assert [byte_size(n) for n in (532, 1300, 2.5e9)] == ["532 B", "1.3 kB", "2.5 GB"]


def test_progress_that_nobody_counts_claims_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretraining is one task: `0/500 steps` for minutes would not be true."""
    now = [100.0]
    monkeypatch.setattr("arcpipe.progress.time.monotonic", lambda: now[0])
    with Progress("pretrain", None, "steps", enabled=False) as progress:
        now[0] += 90
        progress.tick()
        assert progress.line() == "pretrain: at work for 1 min 30 s"
        assert progress.left_s is None
