"""What a run needs to know of its store before it starts, and the stores it refuses."""

from __future__ import annotations

import numpy as np

from arcpipe.config import StreamSection, TrainConfig
from arcpipe.errors import ConfigError, MissingSplitError, SourceError
from arcpipe.store import Store
from arcpipe.stream.split import Split, normalisation
from arcpipe.train.run import StoreFacts


def choose_splits(store: Store, stream: StreamSection) -> tuple[str, str | None, str | None]:
    """Splits to train on, to report, and to choose weights by.

    Reported: the given one, else `test`, else `val`, else none. Weights are chosen by what `stream.validation` holds
    out of the training split, else by `val`, and only where it is neither of the other two: nothing is ever selected on
    the split that is reported.

    Raises:
        MissingSplitError: a named split is not in the store.
        ConfigError: the split to report is the one to train on.
    """
    train, test = stream.train_split, stream.test_split
    for option, name, use in (("--train-split", train, "train on"), ("--test-split", test, "evaluate")):
        if name is not None and name not in store.splits:
            raise MissingSplitError(
                f"{store.storage} has no split {name} to {use}.",
                details=[f"splits: {', '.join(store.splits)}"],
                fix=[f"{option} {other}" for other in store.splits if other != train],
            )
    if test is None:
        test = default_test_split(store, but=train)
    elif test == train:
        raise ConfigError(
            f"--test-split {test} is the split that is trained on: its accuracy would say nothing about other images.",
            fix=[
                "--validation 0.1 holds some of its images out",
                *(f"--test-split {n}" for n in store.splits if n != train),
            ],
        )
    if stream.validation:
        return train, test, "validation"
    validation = "val" if "val" in store.splits and "val" not in (train, test) and test is not None else None
    return train, test, validation


def default_test_split(store: Store, *, but: str | None = None) -> str | None:
    """`test`, else `val`, else none."""
    return next((name for name in ("test", "val") if name in store.splits and name != but), None)


def store_facts(
    store: Store, train: Split, names: tuple[str, str | None, str | None], config: TrainConfig
) -> StoreFacts:
    """Collect what the run folder keeps of its store.

    Raises:
        SourceError: the training split has no clouds, or clouds of one class only.
    """
    check_labels(store, train)
    return StoreFacts(
        fingerprint=store.fingerprint,
        decoder_sha256=store.decoder_sha256,
        n_neighbours=store.n_neighbours,
        latent_dim=store.latent_dim,
        channels=store.channels,
        classes=tuple(store.classes),
        train_split=names[0],
        test_split=names[1],
        validation_split=names[2],
        clouds=len(train.manifest),
        manifest=train.manifest.digest,
        normalisation=normalisation(train, config.stream.normalise).to_dict(),
        convert=dict(store.config),
        decoder_kind=store.decoder_kind,
    )


def check_labels(store: Store, train: Split) -> None:
    """Refuse a training split that nothing can be learnt from."""
    labels = np.unique(np.concatenate([np.zeros(0, np.int64), *train.manifest.labels]))
    if len(labels) > 1:
        return
    if len(labels):
        what = f"has one class only, {store.classes[int(labels[0])]}: a classifier needs two"
        fix = "arcpipe convert a folder of split/class/file with two classes or more"
    else:
        what, fix = "holds no clouds", "the arcpipe convert command that made the store: it continues an unfinished one"
    if not train.whole:
        what, fix = f"{what} behind what --validation holds out", "a smaller --validation"
    raise SourceError(
        f"the split {train.name} of {store.storage} {what}.",
        details=[f"splits: {', '.join(store.splits)}", f"classes of the store: {', '.join(store.classes)}"],
        fix=["another --train-split", fix],
    )
