"""Stores of sine networks keep the promises of every conversion."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arcpipe.arc import edit
from arcpipe.arc.render import render_cloud
from arcpipe.cloud import SirenRecord
from arcpipe.cluster import Cluster
from arcpipe.config import ConvertConfig, build
from arcpipe.convert import run_convert, run_verify
from arcpipe.errors import ConfigError, StoreMismatchError
from arcpipe.fitter import Fitter
from arcpipe.inspect import run_inspect, write_page
from arcpipe.siren import render
from arcpipe.store import open_store
from tests.pictures import Finished, contents, in_process, make_pictures


def sirens(source: Path, out: Path, **fit: Any) -> ConvertConfig:
    fit = {"recipe": "siren", "steps": 40, "lr": 0.002, "hidden": [8, 8], **fit}
    values = {"source": {"source": str(source)}, "out": out, "fit": fit, "store": {"part_samples": 9}}
    return build(ConvertConfig, values)


@pytest.fixture(scope="module")
def of_sirens(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    store = tmp_path_factory.mktemp("sirens") / "a.zarr"
    with ThreadPoolExecutor(1) as executor:
        report = run_convert(sirens(pictures, store), cluster=in_process(executor))
    return Finished(pictures, store, report)


def test_every_image_becomes_a_network_of_its_own(of_sirens: Finished) -> None:
    assert of_sirens.report.next_commands()[1] == f"arcpipe train --store {of_sirens.store} --model scalegmn"
    store = open_store(of_sirens.store)
    record = store.decoder
    assert isinstance(record, SirenRecord)
    assert (store.decoder_kind, store.dtype, store.latent_dim) == (
        "siren",
        "float32",
        2 * 8 + 8 + 8 * 8 + 8 + 8 * 3 + 3,
    )
    assert record.hidden == (8, 8)
    assert record.channels == 3
    assert len(record.start) == store.latent_dim
    batch = store.read_part("train", "0000")
    assert batch.latents.shape == (len(batch), store.latent_dim), "a network is a row"
    assert len({tuple(size) for size in batch.sizes.tolist()}) > 1, "images keep their own resolution"
    assert render(record, batch[0].latents[0], batch[0].size).shape == (*batch[0].size, 3)
    report = run_verify(of_sirens.store, decode=24)
    assert (report.problems, report.checked["decoded samples"]) == ((), 24)


def test_a_conversion_that_lost_a_part_makes_the_same_one_again(pictures: Path, tmp_path: Path, here: Cluster) -> None:
    config = sirens(pictures, tmp_path / "a.zarr", start="independent", repeats=2)
    run_convert(config, cluster=here)
    before = contents(config.out)
    batch = open_store(config.out).read_part("test", "0000")
    assert batch.repeats.tolist()[:2] == [0, 1]
    assert not np.allclose(batch.latents[0], batch.latents[1], atol=0.01), "repeats of an independent start differ"
    victim = Path(str(config.out)) / "train" / "0001" / "latents" / "c" / "0" / "0"
    victim.write_bytes(b"\0" * victim.stat().st_size)
    assert run_verify(config.out).problems
    assert run_verify(config.out, repair=True).ok
    run_convert(config, cluster=here)
    assert contents(config.out) == before


def test_gpus_are_refused(pictures: Path, tmp_path: Path) -> None:
    values = sirens(pictures, tmp_path / "a.zarr").model_dump() | {"run": {"gpus": 1}}
    with pytest.raises(ConfigError, match="fitted on CPUs") as caught:
        build(ConvertConfig, values)
    assert "--workers N" in caught.value.fix


def test_edits_of_anchors_are_refused_and_noise_is_not(of_sirens: Finished) -> None:
    cloud, rng = open_store(of_sirens.store)["train/0"], np.random.default_rng(0)
    for change in (
        lambda: edit.push(cloud, 1.0, rng),
        lambda: edit.rotate(cloud, 30),
        lambda: edit.flip(cloud),
        lambda: edit.mask(cloud, 0.5, rng),
        lambda: edit.mix(cloud, cloud, 0.5, rng),
        lambda: edit.crop(cloud, (0, 0), (4, 4)),
    ):
        with pytest.raises(ValueError, match="is a sine network: it has no anchors"):
            change()
    noisy = edit.add_noise(cloud, 0.1, rng)
    assert not np.allclose(render_cloud(noisy, cloud.decoder), render_cloud(cloud, cloud.decoder), atol=0.01)


def test_networks_of_new_images_begin_where_those_of_a_store_did(
    of_sirens: Finished, tmp_path: Path, here: Cluster
) -> None:
    other = make_pictures(tmp_path / "more", per_class=1)
    run_convert(sirens(other, tmp_path / "b.zarr", decoder=str(of_sirens.store)), cluster=here)
    assert open_store(of_sirens.store).decoder_sha256 == open_store(tmp_path / "b.zarr").decoder_sha256
    wrong = sirens(other, tmp_path / "c.zarr", decoder=str(of_sirens.store), hidden=[9, 9])
    with pytest.raises(ConfigError, match="does not fit these settings"):
        run_convert(wrong, cluster=here)


def test_another_variant_is_another_store(of_sirens: Finished, here: Cluster) -> None:
    with pytest.raises(StoreMismatchError, match=r"fit\.variant: was siren, now siren-dws|made by other settings"):
        run_convert(sirens(of_sirens.source, of_sirens.store, variant="siren-dws"), cluster=here)


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        ({"repeats": 2}, "fit.start=independent"),
        ({"latents": 0.05}, "no --latents"),
        ({"neighbours": 3}, "no --latents"),
        ({"hidden": []}, "the list should have at least 1 item"),
        ({"damping": 0.1}, "does not read fit.damping"),
        ({"variant": "siren-nope"}, "siren-nfn"),
    ],
)
def test_settings_that_no_network_has_are_refused(tmp_path: Path, fit: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sirens(tmp_path, tmp_path / "a.zarr", **fit)
    assert message in str(caught.value)


def test_other_recipes_do_not_read_what_is_of_networks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not read fit\.stop_db"):
        build(ConvertConfig, {"source": {"source": "digits"}, "out": tmp_path / "a.zarr", "fit": {"stop_db": 30}})


def test_a_store_of_networks_is_drawn(of_sirens: Finished, tmp_path: Path) -> None:
    report = run_inspect(of_sirens.store, [], tmp_path / "drawn")
    assert len(report.files) == 2
    finer = run_inspect(of_sirens.store, ["train/ants/0.png"], tmp_path / "drawn", scale=3)
    assert all(file.is_file() for file in finer.files)
    write_page(of_sirens.store, tmp_path / "page.html")
    with pytest.raises(ConfigError, match="a sine network has none"):
        run_inspect(of_sirens.store, [], tmp_path / "drawn", edit="rotate")


def test_a_part_of_a_picture_is_what_the_whole_one_has_there(of_sirens: Finished) -> None:
    cloud = open_store(of_sirens.store)["train/0"]
    whole, (height, width) = render_cloud(cloud, scale=2), cloud.size
    part = render_cloud(cloud, scale=2, window=(1, 2, height - 3, width - 2))
    np.testing.assert_array_equal(part, whole[2 : 2 * height - 4, 4:])
    assert "kind siren" in repr(cloud.decoder)


def test_a_fitter_makes_the_networks_of_its_store(of_sirens: Finished) -> None:
    store = open_store(of_sirens.store)
    fitter = Fitter.like(store)
    name = str(of_sirens.source / "train" / "ants" / "0.png")
    made, kept = fitter.fit(name), store["train/ants/0.png"]
    np.testing.assert_array_equal(made.latents, kept.latents)
    assert made.psnr == pytest.approx(kept.psnr, abs=1e-3)


def test_a_dry_run_times_networks(pictures: Path, tmp_path: Path, here: Cluster) -> None:
    report = run_convert(sirens(pictures, tmp_path / "a.zarr"), dry_run=True, cluster=here)
    assert any("a timed sample" in line for line in report.lines())
    assert not (tmp_path / "a.zarr").exists()
