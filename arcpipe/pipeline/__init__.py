"""`arcpipe run`: a file that converts, trains and evaluates, once or for every arm and seed of an experiment."""

from arcpipe.pipeline.file import Arm, Column, Pipeline, PipelineConfig, read_pipeline
from arcpipe.pipeline.run import PipelineReport, run_pipeline

__all__ = ["Arm", "Column", "Pipeline", "PipelineConfig", "PipelineReport", "read_pipeline", "run_pipeline"]
