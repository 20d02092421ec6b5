"""Train a small torch model of your own on a store: `python examples/own_model.py store/digits.zarr`.

The store is made before with `arcpipe convert digits`. The model looks at each anchor by itself and takes the mean over
the cloud; arcpipe's own point transformers (`arcpipe train`) learn more.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import arcpipe as ap


class PointNet(nn.Module):
    """One network for every point, the mean over each cloud, one linear layer."""

    def __init__(self, latent_dim: int, classes: int, width: int = 128) -> None:
        super().__init__()
        self.point = nn.Sequential(nn.Linear(latent_dim + 2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, classes)

    def forward(self, batch: ap.Batch) -> Tensor:
        points = self.point(torch.cat([batch.latents, batch.positions / 16 - 1], dim=1))
        sums = points.new_zeros(len(batch), points.shape[1]).index_add(0, batch.owner, points)
        return self.head(sums / batch.offsets.diff()[:, None])


def main(path: str, epochs: int) -> float:
    """Train, and return the accuracy on the test split."""
    torch.manual_seed(0)
    store = ap.open_store(path)
    train = ap.CloudStream(store, "train", batch_size=64, augment=["mask", "arcmix"], seed=0)
    test = ap.CloudDataset(store, "test")
    model = PointNet(store.latent_dim, len(store.classes))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for epoch in range(epochs):
        train.set_epoch(epoch)
        for batch in train:
            loss = nn.functional.cross_entropy(model(batch), batch.labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    right = 0
    with torch.no_grad():
        for batch in DataLoader(test, batch_size=256, collate_fn=test.collate):
            right += int((model(batch).argmax(1) == batch.labels.argmax(1)).sum())
    print(f"{path}: test accuracy {100 * right / len(test):.1f} % after {epochs} epochs")
    return right / len(test)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("store")
    arguments.add_argument("--epochs", type=int, default=20)
    given = arguments.parse_args()
    main(given.store, given.epochs)
