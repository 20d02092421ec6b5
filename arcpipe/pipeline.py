"""`arcpipe run`: a file that converts, trains and evaluates."""

from __future__ import annotations

from typing import Any

from arcpipe.config import EvaluateConfig, PipelineConfig, build


def run_pipeline(config: PipelineConfig) -> dict[str, Any]:
    """The three stages of a `PipelineConfig`, one after another; each continues what is there.

    Raises what the stages raise, and `TooManyFailuresError` before training on a store that lacks too many samples.
    """
    from arcpipe.convert import run_convert

    reports: dict[str, Any] = {"convert": run_convert(config.convert)}
    reports["convert"].check()
    if config.train is not None:
        from arcpipe.train import run_evaluate, run_train

        reports["train"] = run_train(config.train)
        if config.evaluate is not None:
            values = {**config.evaluate.model_dump(), "run": config.train.out, "store": config.train.store}
            values |= {"seed": config.train.seed, "device": config.train.device}
            reports["evaluate"] = run_evaluate(build(EvaluateConfig, values))
    return reports
