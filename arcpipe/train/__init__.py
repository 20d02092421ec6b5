"""Learning from a store: training, evaluation, prediction."""

from arcpipe.rooms import make_callable
from arcpipe.train.calling import train
from arcpipe.train.evaluate import run_evaluate
from arcpipe.train.loop import run_train
from arcpipe.train.predict import run_predict

__all__ = ["run_evaluate", "run_predict", "run_train", "train"]

make_callable(__name__, train)
