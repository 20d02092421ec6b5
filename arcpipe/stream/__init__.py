"""Clouds on their way from a store to whoever learns from them: in a reproducible order, changed, batched, as tensors.

`order` says which clouds an epoch visits and when; `split` reads them, from the store or from memory; `augment` changes
them, with the random numbers of `draws`, as far as `changes` allows; `loader` makes batches of tensors; `dataset` hands
them to whoever trains.
"""
