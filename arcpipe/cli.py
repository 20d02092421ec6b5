"""The commands: parse, call one function, print, exit code. Heavy imports stay inside the commands."""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

from arcpipe import __version__
from arcpipe.errors import ArcpipeError, ConfigError, EndedElsewhereError, FileAccessError, NoSpaceError, ShortageError
from arcpipe.interrupts import Terminated, heeded, same_command
from arcpipe.machine import is_shortage
from arcpipe.options import (
    Cache,
    Dtype,
    Edit,
    Model,
    Normalise,
    Preset,
    Recipe,
    Schedule,
    Weights,
    augmentations,
    default_run,
    default_store,
    given,
    seeds_of,
    with_expert,
    words,
)
from arcpipe.paths import checked
from arcpipe.storage import Storage, folder_path, storage_at
from arcpipe.streams import drop_results, hush, hush_exit, open_streams, write_results

P = ParamSpec("P")
T = TypeVar("T")


def _parser(read: Callable[[str], T]) -> Callable[[str], T]:
    def parse(text: str) -> T:
        try:
            return read(text)
        except ArcpipeError as error:
            raise typer.BadParameter(str(error)) from None

    return parse


def _names_of_settings(incomplete: str) -> list[str]:
    """For the shell: `fit.l` becomes `fit.lr=` and others."""
    from arcpipe.settings import all_settings

    return [f"{entry.key}=" for entry in all_settings() if entry.key.startswith(incomplete)]


app = typer.Typer(
    name="arcpipe",
    help="Image datasets as stores of latent point clouds (ARC), and point transformers trained on them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: importing rich takes a third of its 0.3 s
    context_settings={"help_option_names": ["-h", "--help"]},
)


def option(told: str, **more: Any) -> Any:
    """An option of a command, by what its help tells."""
    return typer.Option(help=told, **more)


# A store's place, what is written on this machine, and what is only read, as options or arguments.
AT: dict[str, Any] = {"parser": _parser(storage_at), "metavar": "STORE"}
OUT: dict[str, Any] = {"parser": _parser(folder_path), "metavar": "PATH"}
IN: dict[str, Any] = {"parser": _parser(lambda text: Path(checked(text))), "metavar": "PATH"}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Seed = Annotated[int, option("Everything random derives from it.")]
Device = Annotated[str, option("auto, cpu or cuda.")]
Threads = Annotated[int | None, option("By default one per core.", min=1, max=1024)]
Chosen = Annotated[Weights, option("Of the last step, or chosen by a validation split.")]
Expert = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any setting by its TOML name, such as fit.lr=0.01: arcpipe settings lists them.",
        autocompletion=_names_of_settings,
    ),
]


def reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Turn errors that a user can fix into one message and an exit code; a second Ctrl-C ends at once."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with heeded():
                command(*args, **kwargs)
        except Exception as error:
            told = error if isinstance(error, ArcpipeError) else _of_the_system(error)
            if told is None:
                raise
            raise _told(told) from None
        except (KeyboardInterrupt, Terminated) as stop:
            what, code = ("interrupted", 130) if isinstance(stop, KeyboardInterrupt) else ("terminated", 143)
            _say(f"{what}: nothing is lost, the same command continues:\n  {same_command()}")
            raise typer.Exit(code) from None

    return run


def speaks() -> bool:
    """Whether this process is the one to speak: under torchrun, the first one does for all."""
    return os.environ.get("RANK", "0") == "0" or "WORLD_SIZE" not in os.environ


def _say(message: str) -> None:
    if speaks():
        typer.echo(message, err=True)


def _told(error: ArcpipeError) -> typer.Exit:
    if isinstance(error, ConfigError):  # the same in all processes
        _say(f"{type(error).__name__}: {error}")
    elif not isinstance(error, EndedElsewhereError):
        typer.echo(f"{type(error).__name__}: {error}", err=True)
    return typer.Exit(error.exit_code)


def _of_the_system(error: Exception) -> ArcpipeError | None:
    """What the machine or the file system refused, where no room knew more about it; None: another kind of error."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        limit = error.errno == errno.EFBIG
        return NoSpaceError(
            f"no space left to write {error.filename or 'a file'}.",
            details=["it would be larger than this process may write (ulimit -f)"] if limit else [],
            fix=[f"{'raise the limit' if limit else 'free some space'}, then run the same command again"],
        )
    if is_shortage(error):
        return ShortageError(
            "this machine has no more memory, threads or open files.",
            details=[(str(error) or type(error).__name__)[:200], "nothing is lost, and no file is to blame"],
            fix=["raise the limits (ulimit -a), or use fewer --threads and --workers; then the same command continues"],
        )
    if not isinstance(error, OSError) or error.errno is None:
        return None
    return FileAccessError(
        f"{error.filename or 'a file or connection'} cannot be read or written: {error.strerror}.",
        details=[f"user {os.getuid()}, in {Path.cwd()}"],
        fix=["check its owner and permissions, and that its disk is writable and sound"],
    )


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
@reports_errors
def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="digits, mnist, fashion-mnist, cifar10, imagenette, imagenette320; or a folder, tar or zip of "
            "split/class/file or class/file."
        ),
    ],
    out: Annotated[
        Storage | None,
        option("The store, a path or s3://BUCKET/NAME.zarr; by default store/NAME.zarr.", **AT),
    ] = None,
    data: Annotated[
        Path | None,
        option("Where named datasets are, and where downloads go.", envvar="ARCPIPE_DATA", show_envvar=True, **IN),
    ] = None,
    workers: Annotated[int | None, option("Worker processes; by default one per core.", min=1)] = None,
    gpus: Annotated[int | None, option("So many GPUs of this machine fit the clouds.", min=1)] = None,
    scheduler: Annotated[str | None, option("Address of a running Dask scheduler.")] = None,
    cluster: Annotated[Path | None, option("TOML file: workers as jobs of Slurm, PBS, ...", **IN)] = None,
    memory: Annotated[
        str | None, option("Memory of each worker, such as 2GiB; by default its share of the machine's.")
    ] = None,
    recipe: Annotated[
        Recipe,
        option("How an image is fitted: its latents solved for, as in the thesis, or a sine network each."),
    ] = "basis",
    latents: Annotated[
        float | None, option("Anchors: below 1 a share of the pixels, else a number; by default 0.05.")
    ] = None,
    latent_dim: Annotated[int | None, option("Numbers in a latent; by default 32.", min=1)] = None,
    neighbours: Annotated[int | None, option("Nearest anchors that decode a pixel; by default 4.", min=1)] = None,
    repeats: Annotated[int, option("Fit every image so many times.", min=1)] = 1,
    views: Annotated[int, option("Fit so many views of every image: itself, crops and flips.", min=1)] = 1,
    steps: Annotated[int | None, option("Adam steps per image; thesis 500, siren 1000.", min=1)] = None,
    dtype: Annotated[Dtype | None, option("How latents are stored; by default float16, of siren float32.")] = None,
    neighbours_cache: Annotated[
        Cache | None, option("Store each pixel's nearest anchors (the default), or not.")
    ] = None,
    decoder: Annotated[
        str | None, option("Use the decoder of this store or safetensors file instead of pretraining one.")
    ] = None,
    size: Annotated[int | None, option("Resize to S x S pixels.", min=1)] = None,
    shorter: Annotated[int | None, option("Resize the shorter side to S pixels.", min=1)] = None,
    center_crop: Annotated[int | None, option("Then cut the middle S x S pixels.", min=1)] = None,
    pad: Annotated[int | None, option("Then pad with zeros to S x S pixels.", min=1)] = None,
    displace: Annotated[bool, option("With --pad: put the picture at a random place.")] = False,
    grey: Annotated[bool, option("One channel.")] = False,
    limit: Annotated[int | None, option("At most N samples of each split.", min=1)] = None,
    max_pixels: Annotated[int, option("Larger images are recorded as failed.", min=1)] = 2**25,
    max_failed: Annotated[float, option("Exit 5 if more samples fail: below 1 a share, else a number.", min=0)] = 0.05,
    seed: Seed = 0,
    dry_run: Annotated[bool, option("Print the plan and touch nothing.")] = False,
    overwrite: Annotated[bool, option("Replace a store made by other settings.")] = False,
    retry_failed: Annotated[bool, option("Make the parts with failed samples again.")] = False,
    expert: Expert = None,
    as_json: Json = False,
) -> None:
    """Turn an image dataset into a store of ARC clouds. Safe to run again: it continues."""
    options = given(locals(), besides=("dry_run", "overwrite", "retry_failed", "expert", "as_json"))
    from arcpipe.config import ConvertConfig, build, sectioned
    from arcpipe.convert import run_convert

    values = sectioned(ConvertConfig, {"out": default_store(source), **options})
    config = build(ConvertConfig, with_expert(values, expert))
    report = run_convert(config, dry_run=dry_run, overwrite=overwrite, retry_failed=retry_failed)
    show(report, as_json)
    report.check()


@app.command()
@reports_errors
def train(
    store: Annotated[Storage, option("A store made by arcpipe convert.", **AT)],
    out: Annotated[Path | None, option("The run's folder; by default runs/NAME.", **OUT)] = None,
    model: Annotated[Model, option("The classifier: ptv3 and ptv1 of clouds, the others of sine networks.")] = "ptv3",
    preset: Annotated[
        Preset | None,
        option(
            "Of ptv3 plain (the default), small, or photo for clouds of thousands of points; of ptv1 small or "
            "large; of sine networks small or full."
        ),
    ] = None,
    epochs: Annotated[int, option("Times that every cloud is seen.", min=1)] = 40,
    batch_size: Annotated[int | None, option("Clouds in a step; by default 128, of sine networks 64.", min=1)] = None,
    lr: Annotated[float | None, option("Learning rate; by default 0.002, of sine networks 0.001.")] = None,
    weight_decay: Annotated[float | None, option("By default 0.05, or the network's own.", min=0)] = None,
    schedule: Annotated[Schedule | None, option("Of the learning rate, after a short rise; by default cosine.")] = None,
    augment: Annotated[
        str | None,
        option(
            "none, or any of mask,arcmix,push,rotate,flip,crop,displace,noise, comma-separated; of clouds of the "
            "recipe basis also zoom,brightness,contrast,saturation,hue; by default mask,arcmix. Of sine networks: "
            "translate,rotate,jitter,drop,stretch,permute (docs/baselines.md); by default as their classifier has it."
        ),
    ] = None,
    normalise: Annotated[
        Normalise | None, option("Of latents, by training statistics; by default per-dim, or the model's.")
    ] = None,
    train_split: Annotated[str, typer.Option()] = "train",
    test_split: Annotated[str | None, option("By default test, else val.")] = None,
    validation: Annotated[float, option("Share of the training images held out to choose by.", min=0, max=0.99)] = 0.0,
    allow_unfinished: Annotated[bool, option("Train on what an unfinished store has.")] = False,
    resume: Annotated[bool, option("Insist on continuing: an error where no run is.")] = False,
    overwrite: Annotated[bool, option("Start again in a run folder of other settings.")] = False,
    device: Device = "auto",
    threads: Annotated[int | None, option("Of each process; by default one per core.", min=1)] = None,
    workers: Annotated[int | None, option("N processes on the CPU share every batch.", min=1)] = None,
    gpus: Annotated[int | None, option("N GPUs share every batch.", min=1)] = None,
    seed: Seed = 0,
    expert: Expert = None,
    as_json: Json = False,
) -> None:
    """Train a point transformer on a store. Safe to run again: it continues."""
    options = given(locals(), besides=("augment", "resume", "overwrite", "expert", "as_json"))
    from arcpipe.config import TrainConfig, build, sectioned
    from arcpipe.threads import set_waiting

    set_waiting()
    from arcpipe.train import run_train

    values = sectioned(TrainConfig, {"out": default_run(store), **options})
    if augment is not None:
        values["augment"] = {"apply": augmentations(augment)}
    config = build(TrainConfig, with_expert(values, expert))
    report = run_train(config, resume=resume, overwrite=overwrite)
    if speaks():
        show(report, as_json)


@app.command()
@reports_errors
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run's folder.", **IN)],
    store: Annotated[Storage, option("A store with the same decoder.", **AT)],
    split: Annotated[str | None, option("By default test, else val.")] = None,
    weights: Chosen = "last",
    push: Annotated[float, option("Push every anchor by up to P pixels (experiment 4).", min=0)] = 0.0,
    shift: Annotated[float, option("Shift every cloud by up to S pixels (experiment 5).", min=0)] = 0.0,
    displace: Annotated[bool, option("Put every cloud at a random place inside its image.")] = False,
    repeats: Annotated[int | None, option("Average at most N clouds of an image; else all.", min=1)] = None,
    views: Annotated[int, option("Average N views of a cloud: itself, then changed as in training.", min=1)] = 1,
    out: Annotated[Path | None, option("Draw calibration and confusion into this folder.", **OUT)] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 256,
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Accuracy, per class, calibration and confusion, of a trained run on a store."""
    options = given(locals(), besides=("as_json",))
    from arcpipe.config import EvaluateConfig, build
    from arcpipe.threads import set_waiting

    set_waiting()
    from arcpipe.train import run_evaluate

    show(run_evaluate(build(EvaluateConfig, options)), as_json)


@app.command()
@reports_errors
def predict(
    run: Annotated[Path, typer.Argument(help="A run's folder.", **IN)],
    images: Annotated[list[Path], typer.Argument(help="Image files.", **{**IN, "metavar": "IMAGE..."})],
    weights: Chosen = "last",
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Convert new images with the store's own decoder and classify them."""
    from arcpipe.train import run_predict

    report = run_predict(run, images, weights=weights, device=device, threads=threads)
    show(report, as_json)
    report.check()


@app.command()
@reports_errors
def inspect(
    store: Annotated[Storage, typer.Argument(help="A store.", **AT)],
    samples: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SAMPLE]...", help="train/17, train/cats/1.jpg, a repeat train/17#3; none: best, median, worst."
        ),
    ] = None,
    out: Annotated[Path | None, option("Folder of the pictures; by default inspect/NAME.", **OUT)] = None,
    scale: Annotated[int, option("Render between the pixels.", min=1, max=16)] = 1,
    edit: Annotated[Edit | None, option("Edit clouds and decode them, beside their pictures edited alike.")] = None,
    html: Annotated[
        Path | None,
        option("Write one page about the whole store instead.", **{**OUT, "metavar": "FILE.html"}),
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Draw original, reconstruction, anchors and error; or write a page about the store."""
    if html is not None:
        from arcpipe.inspect import write_page

        given = {"SAMPLE": samples, "--scale": scale != 1, "--edit": edit, "--out": out}
        besides = [name for name, value in given.items() if value]
        return show(write_page(store, html, besides=besides), as_json)
    from arcpipe.inspect import run_inspect

    folder = out or Path("inspect") / store.name.removesuffix(".zarr")
    show(run_inspect(store, samples or [], folder, scale=scale, edit=edit, seed=seed), as_json)


@app.command()
@reports_errors
def verify(
    store: Annotated[Storage, typer.Argument(help="A store.", **AT)],
    decode: Annotated[int, option("Also decode N samples and compare with their PSNR.", min=0)] = 0,
    repair: Annotated[bool, option("Move damaged parts aside: the next convert makes them again.")] = False,
    as_json: Json = False,
) -> None:
    """Read every byte of a store, check it, and name what is damaged."""
    from arcpipe.convert import run_verify

    report = run_verify(store, decode=decode, repair=repair)
    show(report, as_json)
    report.check()


@app.command()
@reports_errors
def settings(
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY]...", help="A setting or section: fit.lr, lr, optim."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List every setting for --set and pipelines, with its default, its bounds and what it means."""
    from arcpipe.settings import find_settings

    show(find_settings(keys or []), as_json)


@app.command()
@reports_errors
def doctor(
    out: Annotated[Storage, option("Where a store would be made.", **AT)] = "store/NAME.zarr",  # type: ignore
    as_json: Json = False,
) -> None:
    """Check this machine and the folder of a store: what was found, and what to do about it."""
    from arcpipe.doctor import run_doctor

    report = run_doctor(out)
    show(report, as_json)
    if report.problems:
        raise typer.Exit(1)


@app.command()
@reports_errors
def run(
    pipeline: Annotated[
        Path, typer.Argument(help="A TOML file, for example pipelines/digits.toml.", **{**IN, "metavar": "PIPELINE"})
    ],
    data: Annotated[
        Path | None, option("Where datasets are looked for.", envvar="ARCPIPE_DATA", show_envvar=True, **IN)
    ] = None,
    recipe: Annotated[
        Recipe | None, option("How images are fitted, in place of the file's: its table a second time.")
    ] = None,
    only: Annotated[list[str] | None, option("These arms; by default all.", metavar="ARM,...")] = None,
    seeds: Annotated[str | None, option("In place of the file's.", metavar="0,1,...")] = None,
    at_once: Annotated[
        int,
        option("Trainings side by side, each with its share of the cores.", metavar="N", min=1, max=1024),
    ] = 1,
    dry_run: Annotated[bool, option("Tell what is done and what is left, and touch nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Convert, train and evaluate as a file says, every arm and seed of it. Safe to run again: it continues."""
    from arcpipe.threads import set_waiting

    set_waiting()
    from arcpipe.pipeline import read_pipeline, run_pipeline

    read = read_pipeline(pipeline, data, recipe)
    if read.about:
        typer.echo(read.about, err=True)
    arms = [arm for text in only or () for arm in words(text)]
    report = run_pipeline(read, only=arms, seeds=seeds_of(seeds), at_once=at_once, dry_run=dry_run)
    show(report, as_json)
    report.check()


bench = typer.Typer(no_args_is_help=True, help="Measure this machine: ratios against named baselines in one run.")
app.add_typer(bench, name="bench")


@bench.command("fit")
@reports_errors
def bench_fit(
    sizes: Annotated[str, option("HEIGHTxWIDTH, comma-separated.")] = "32x32,224x224,375x500",
    images: Annotated[int | None, option("Pictures of each size.", min=1, max=10**6)] = None,
    as_json: Json = False,
) -> None:
    """Fit the same pictures one at a time, batched, with the engine, and as SIREN; print seconds, PSNR and ratios."""
    from arcpipe.bench.fit import run_bench_fit

    show(run_bench_fit(words(sizes), images), as_json)


@bench.command("train")
@reports_errors
def bench_train(
    store: Annotated[Path | None, option("Clouds to train on; by default of pieces of photographs.", **AT)] = None,
    batch_size: Annotated[int, option("Clouds a step.", min=1, max=2**20)] = 128,
    turns: Annotated[int, option("Steps of every network.", min=1, max=10**9)] = 10,
    as_json: Json = False,
) -> None:
    """Time training steps of the networks and backends that run here, in turns; print rates, ratios and parts."""
    from arcpipe.bench.train import run_bench_train

    show(run_bench_train(store, batch_size, turns), as_json)


@bench.command("stream")
@reports_errors
def bench_stream(
    store: Annotated[Path | None, option("Whose clouds; by default made-up ones of 51 points.", **AT)] = None,
    split: Annotated[str, option("Of the store.")] = "train",
    clouds: Annotated[int, option("How many are made up.", min=1, max=10**8)] = 4096,
    rounds: Annotated[int, option("Epochs of every way.", min=1, max=10**6)] = 3,
    as_json: Json = False,
) -> None:
    """Clouds by second of the loader, of the model fed from memory, and of both; beside WebDataset where installed."""
    from arcpipe.threads import set_waiting

    set_waiting()
    from arcpipe.bench.stream import run_bench_stream

    show(run_bench_stream(store, clouds=clouds, rounds=rounds, split=split), as_json)


def show(report: Any, as_json: bool) -> None:
    """Print a report on stdout: its lines for people, or one JSON object."""
    write_results([json.dumps(report.as_dict(), default=str)] if as_json else report.lines())


def main() -> None:
    """Entry point of the `arcpipe` command."""
    open_streams()
    hush()
    try:
        os.getcwd()
    except OSError:
        typer.echo("the folder that this command was started in is gone: go to one that exists.", err=True)
        sys.exit(1)
    try:
        app(prog_name="arcpipe")
    except OSError as error:  # help and completion are printed by Typer
        if error.errno is None:
            raise
        drop_results()
        typer.echo(f"the results could not be written to stdout: {error.strerror}.", err=True)
        sys.exit(1)
    finally:
        hush_exit()
