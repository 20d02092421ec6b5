"""Learning from a store: training, evaluation, prediction."""

from arcpipe.rooms import make_callable
from arcpipe.train.calling import train
from arcpipe.train.evaluate import EvaluateReport, run_evaluate
from arcpipe.train.loop import run_train
from arcpipe.train.predict import Prediction, PredictReport, TrainedRun, load_run, run_predict
from arcpipe.train.report import TrainReport

__all__ = [
    "EvaluateReport",
    "PredictReport",
    "Prediction",
    "TrainReport",
    "TrainedRun",
    "load_run",
    "run_evaluate",
    "run_predict",
    "run_train",
    "train",
]

make_callable(__name__, train)
