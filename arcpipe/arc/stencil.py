"""What a cloud shows around its own anchors: the decoded picture's low frequencies there, as features of the points.

A latent's meaning depends on its slot and on where its neighbours stand, which a classifier would have to learn; the
colours that the decoder makes of it do not. Nothing is used but the cloud and the decoder of its store.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from arcpipe.arc.engine import AnyDecoder, decode
from arcpipe.cloud import Cloud


def stencil_features(cloud: Cloud, decoder: AnyDecoder, windows: Sequence[int], order: int) -> NDArray[np.float32]:
    """Decode a cloud and describe the square windows around its anchors.

    Every window is reduced to the coefficients (u, v), u + v <= `order`, of its orthonormal cosine transform (DCT-II),
    divided by its edge, so that (0, 0) is the mean colour. Pixels outside the picture repeat its border.

    Args:
        cloud: K anchors at whole pixels inside the image.
        decoder: The decoder of its store.
        windows: Odd edges, pixels.
        order: Highest u + v; 3 makes 10 coefficients a channel.

    Returns:
        (K, len(windows) * channels * coefficients) float32: window by window, channel by channel.
    """
    picture = decode(cloud.latents, cloud.positions, cloud.size, decoder, cloud.relative, scales=cloud.scales)
    rows, columns = cloud.positions.astype(np.int64).T
    found = []
    for window in windows:
        reach = window // 2
        bordered = np.pad(picture, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
        views = np.lib.stride_tricks.sliding_window_view(bordered, (window, window), axis=(0, 1))
        around = views[rows, columns]  # (K, channels, window, window)
        waves = _waves(window, order)  # (coefficients, window, window)
        flat = around.reshape(len(cloud), -1, window * window) @ waves.reshape(len(waves), -1).T
        found.append(flat.reshape(len(cloud), -1))
    return np.ascontiguousarray(np.concatenate(found, axis=1), np.float32)


def mirror_signs(channels: int, windows: Sequence[int], order: int) -> NDArray[np.float32]:
    """Factors (2, d) that a flip of the picture puts on stencil features: [0] upside down, [1] left to right.

    Cosine waves are even or odd about a window's middle, so a flipped picture has the same features but for signs.
    """
    pairs = np.array(_frequencies(order) * channels * len(windows))
    return np.where(pairs.T % 2, np.float32(-1), np.float32(1))


def _frequencies(order: int) -> list[tuple[int, int]]:
    return [(u, v) for u in range(order + 1) for v in range(order + 1 - u)]


def _waves(window: int, order: int) -> NDArray[np.float32]:
    """(coefficients, window, window): products of cosines over rows and columns, over `window`."""
    places = (np.arange(window) + 0.5) * np.pi / window
    lines = np.array([np.cos(places * u) * np.sqrt((1 if u == 0 else 2) / window) for u in range(order + 1)])
    waves = [np.outer(lines[u], lines[v]) / window for u, v in _frequencies(order)]
    return np.array(waves, np.float32)
