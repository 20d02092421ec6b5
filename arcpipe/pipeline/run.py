"""`arcpipe run`: work through the arms and seeds of a file, and write its table. Safe to run again: it continues."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from arcpipe import __version__
from arcpipe.config import ConvertConfig
from arcpipe.devices import check_workers
from arcpipe.errors import ArcpipeError, ConfigError, PipelineError
from arcpipe.files import write_atomically
from arcpipe.pipeline.card import CHOSEN_BY, Card
from arcpipe.pipeline.file import Pipeline, PipelineConfig
from arcpipe.pipeline.plan import Evaluation, Job, plan_jobs
from arcpipe.pipeline.results import Left, Results, what_is_left
from arcpipe.pipeline.table import comma_separated, draw_results, markdown
from arcpipe.progress import say
from arcpipe.storage import Storage


@dataclass(frozen=True)
class PipelineReport:
    """What a file came to. `stages`: of a plain file, the reports of its stages. `left`: of a dry run."""

    folder: Path | None
    stages: dict[str, Any]
    table: tuple[str, ...] = ()
    measured: int = 0
    before: int = 0
    failed: tuple[str, ...] = ()
    left: tuple[Left, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        if self.stages:
            return {name: report.as_dict() for name, report in self.stages.items()}
        return {
            "results": str(self.folder),
            "measured": self.measured,
            "before": self.before,
            "failed": list(self.failed),
            "left": [asdict(entry) for entry in self.left],
        }

    def lines(self) -> list[str]:
        if self.stages:
            return [line for report in self.stages.values() for line in report.lines()]
        if self.left:
            n_left, n_all = sum(one.evaluations_left for one in self.left), sum(one.evaluations for one in self.left)
            lines = [line for one in self.left for line in one.lines()]
            return [*lines, f"{n_left} of {n_all} numbers are left to measure"]
        if not self.table:
            return [f"{self.folder}: nothing is measured yet"]
        lines = [*self.table, "", f"{self.folder}: {self.measured} measured now, {self.before} were there before"]
        return lines + [f"  {name}" for name in ("table.md", "table.csv", "results.json", "table.png")]

    def check(self) -> None:
        """Raise `PipelineError` with the list of what failed."""
        if self.failed:
            raise PipelineError(
                f"{len(self.failed)} of the pieces of {self.folder} failed; the others are done.",
                details=self.failed,
                fix=["run the same command again: what is done stays"],
            )


def run_pipeline(
    pipeline: Pipeline,
    *,
    only: Iterable[str] = (),
    seeds: Iterable[int] = (),
    at_once: int = 1,
    dry_run: bool = False,
) -> PipelineReport:
    """Convert, train and evaluate what is left of a file, and write `results/NAME/`.

    Args:
        only: names of arms; by default all.
        seeds: in place of the file's.
        at_once: trainings side by side, each with its share of the cores. With more than one, everything is
            converted first.
        dry_run: tell what is done and left, and touch nothing.

    Raises:
        ConfigError: an arm is not in the file, its settings contradict each other, or a file without arms and seeds
            was given `only`, `seeds` or `at_once`.
        Of a plain file: what its stages raise.
    """
    only, seeds = tuple(only), tuple(seeds)
    check_workers(at_once, "--at-once")
    if pipeline.plain is not None:
        _require_arms(pipeline, {"--only": only, "--seeds": seeds, "--at-once": at_once > 1})
        return PipelineReport(None, _run_plain(pipeline.plain, dry_run=dry_run))
    jobs = plan_jobs(pipeline, only, seeds)
    results = Results(Path("results") / pipeline.name)
    if dry_run:
        return PipelineReport(results.folder, {}, left=tuple(what_is_left(job, results) for job in jobs))
    desk = _Desk(pipeline, results, plan_jobs(pipeline, (), {*pipeline.seeds, *seeds}))
    work: list[tuple[str, Job]] = []
    for number, job in enumerate(jobs, 1):
        missing = tuple(evaluation for evaluation in job.evaluations if results.find(evaluation) is None)
        desk.before += len(job.evaluations) - len(missing)
        if missing:
            name = f"[{number}/{len(jobs)}] {job.title}: {job.train.out} on {job.convert.out}"
            work.append((name, replace(job, evaluations=missing)))
    if at_once > 1:
        _side_by_side(desk, work, at_once)
    else:
        for name, job in work:
            say(name)
            _one(desk, job)
    table = desk.write() if results.entries else []
    return PipelineReport(results.folder, {}, tuple(table), desk.measured, desk.before, tuple(desk.failed))


def _require_arms(pipeline: Pipeline, options: Mapping[str, Any]) -> None:
    """A file of one training takes none of the options that choose among several."""
    given = [name for name, value in options.items() if value]
    if given:
        raise ConfigError(
            f"{pipeline.path} is one training: {' and '.join(given)} would change nothing.",
            details=["they are for files with arms or seeds"],
            fix=[f"arcpipe run {pipeline.path}", 'add a line such as "seeds = [0, 1, 2]" at the top of the file'],
        )


class _Desk:
    """What stays while a file is worked through."""

    def __init__(self, pipeline: Pipeline, results: Results, all_jobs: list[Job]) -> None:
        self.pipeline, self.results, self.all_jobs = pipeline, results, all_jobs
        self.stores: dict[Storage, Any] = {}
        self.measured = self.before = 0
        self.failed: list[str] = []

    def store(self, convert: ConvertConfig) -> Any:
        """The report of a conversion, done once; one that failed fails again at once."""
        from arcpipe.convert import run_convert

        if convert.out not in self.stores:
            try:
                self.stores[convert.out] = run_convert(convert)
                self.stores[convert.out].check()
            except Exception as error:
                self.stores[convert.out] = error
        found = self.stores[convert.out]
        if isinstance(found, Exception):
            raise found
        return found

    def write(self) -> list[str]:
        """Write the four files and return the table's lines."""
        folder, thesis, columns = self.results.folder, self.pipeline.table.thesis, self.pipeline.columns()
        title = self.pipeline.table.title or self.pipeline.name
        with self.results.shared():
            rows = self.results.rows(self.pipeline, self.all_jobs)
            lines = markdown(title, thesis, columns, rows)
            self.results.write(self.pipeline, rows, {"failed": self.failed, **_machine()})
            write_atomically(folder / "table.md", ("\n".join(lines) + "\n").encode())
            write_atomically(folder / "table.csv", comma_separated(columns, rows).encode())
            draw_results(folder / "table.png", title, thesis, columns, rows)
        return lines


def _one(desk: _Desk, job: Job) -> None:
    """Convert, train and evaluate; what goes wrong is noted, and the next one has its turn."""
    from arcpipe.train import run_train

    try:
        report = desk.store(job.convert)
        trained = run_train(job.train)
    except Exception as error:
        _note(desk, job.title, error)
        return
    _measure(desk, job, report, trained)


def _side_by_side(desk: _Desk, work: Iterable[tuple[str, Job]], at_once: int) -> None:
    """Convert everything, then train several at once, by their names; each is evaluated as it ends."""
    from arcpipe.pipeline.beside import train_side_by_side

    by_run: dict[Path, list[tuple[str, Job, Any]]] = {}
    for name, job in work:
        try:
            report = desk.store(job.convert)
        except Exception as error:
            _note(desk, job.title, error)
            continue
        by_run.setdefault(job.train.out, []).append((name, job, report))
    groups = list(by_run.values())
    named = [(name, job.train) for (name, job, _), *_ in groups]
    for place, outcome in train_side_by_side(named, at_once):
        for _, job, report in groups[place]:
            if isinstance(outcome, Exception):
                _note(desk, job.title, outcome)
            else:
                _measure(desk, job, report, outcome)


def _measure(desk: _Desk, job: Job, report: Any, trained: Any) -> None:
    """All numbers of a job of one training. `report`, `trained`: of its conversion and of itself."""
    split = report.splits[job.train.stream.train_split]
    training = {
        "images": split.samples,
        "clouds": trained.clouds,
        "psnr": split.mean_psnr,
        "epochs": trained.epochs,
        "parameters": trained.parameters,
        "model": trained.model,
        "seconds": trained.seconds,
        "train_accuracy": trained.train_accuracy,
        "train_loss": trained.train_loss,
    }
    card = Card.of(job.convert, job.train, report, trained, desk.pipeline.command)
    for evaluation in job.evaluations:
        try:
            _evaluate(desk, job, evaluation, training, card)
        except Exception as error:
            _note(desk, f"{job.title}, {evaluation.column.name}", error)


def _evaluate(desk: _Desk, job: Job, evaluation: Evaluation, training: dict[str, Any], card: Card) -> None:
    from arcpipe.train import run_evaluate

    if evaluation.convert is not None:
        desk.store(evaluation.convert)
    report = run_evaluate(evaluation.config)
    say(f"  {job.title}, {evaluation.column.name}: {100 * report.measures.accuracy:.2f} %")
    measures = {name: value for name, value in report.measures.as_dict().items() if name != "confusion"}
    desk.results.entries.append(
        {
            "arm": job.arm.name,
            "seed": job.seed,
            "column": evaluation.column.name,
            **measures,
            "split": report.split,
            "clouds": report.clouds,
            "run": str(job.train.out),
            "store": str(evaluation.config.store),
            "training": training,
            "card": replace(card, chosen_by=CHOSEN_BY[evaluation.config.weights]).as_dict(),
            "settings": dict(evaluation.settings),
        }
    )
    desk.measured += 1
    desk.write()


def _note(desk: _Desk, what: str, error: Exception) -> None:
    """An error that a user can fix is its message; any other keeps its traceback in a file."""
    if isinstance(error, ArcpipeError):
        message = f"{type(error).__name__}: {error.what}"
        say(f"{what} failed: {type(error).__name__}: {error}")
    else:
        log = desk.results.folder / "errors.log"
        message = f"{type(error).__name__}: {error} (see {log})"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as lines:
            lines.write(f"{what}\n{''.join(traceback.format_exception(error))}\n")
        say(f"{what} failed: {message}")
    desk.failed.append(f"{what}: {message}")


def _run_plain(config: PipelineConfig, *, dry_run: bool) -> dict[str, Any]:
    """The three stages of a file without arms, one after another; each continues what is there."""
    from arcpipe.convert import run_convert

    reports: dict[str, Any] = {"convert": run_convert(config.convert, dry_run=dry_run)}
    reports["convert"].check()
    if config.train is not None and not dry_run:
        from arcpipe.train import run_evaluate, run_train

        reports["train"] = run_train(config.train)
        for section in config.evaluate or ():
            reports["evaluate"] = run_evaluate(section.of(config.train, config.train.store))
    return reports


def _machine() -> dict[str, Any]:
    """Where the minutes were taken."""
    model = ""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return {"arcpipe": __version__, "machine": {"cpu": model, "cores": os.cpu_count()}}
