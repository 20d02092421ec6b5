"""Streams a store into a classifier: order, augmentation, loading, training, evaluation, prediction."""

from arcpipe.train.evaluate import EvaluateReport, run_evaluate
from arcpipe.train.loop import run_train
from arcpipe.train.predict import Prediction, PredictReport, run_predict
from arcpipe.train.report import TrainReport

__all__ = ["EvaluateReport", "PredictReport", "Prediction", "TrainReport", "run_evaluate", "run_predict", "run_train"]
