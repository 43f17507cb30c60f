"""Features of digit images: histograms of gradients, and a network learnt on labelled digits."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from torch import nn
from torch.nn import functional

# Random changes of an image: turn in radians, log scale, shear, shift in pixels, log gamma.
TURN, ZOOM, SHEAR, SHIFT, GAMMA = 0.25, 0.4, 0.2, 1.0, 0.5


class GradientHistograms(TransformerMixin, BaseEstimator):
    """Histograms of oriented gradients of square grey images.

    The length of the gradient is dealt out to the two nearest of `n_orientations` directions over
    the full circle, summed over overlapping cells, and each cell is divided by its own length.
    """

    def __init__(self, n_orientations: int = 8, *, cell: int = 3, stride: int = 1) -> None:
        self.n_orientations = n_orientations
        self.cell = cell
        self.stride = stride

    def fit(self, X: np.ndarray, y: object = None) -> GradientHistograms:
        """Do nothing: there is nothing to learn."""
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return the histograms of all cells, one image a row."""
        X = np.asarray(X)
        side = round(X.shape[1] ** 0.5)
        images = np.pad(X.reshape(-1, side, side), ((0, 0), (1, 1), (1, 1)))
        down = images[:, 2:, 1:-1] - images[:, :-2, 1:-1]
        right = images[:, 1:-1, 2:] - images[:, 1:-1, :-2]
        place = np.arctan2(down, right) / (2 * np.pi) * self.n_orientations
        bins = np.arange(self.n_orientations)
        away = np.abs((place[..., None] - bins + self.n_orientations / 2) % self.n_orientations)
        away = np.abs(away - self.n_orientations / 2)
        votes = np.hypot(down, right)[..., None] * np.clip(1 - away, 0, None)
        windows = np.lib.stride_tricks.sliding_window_view(votes, (self.cell, self.cell), (1, 2))
        cells = windows[:, :: self.stride, :: self.stride].sum((-1, -2))
        cells = cells / np.sqrt((cells**2).sum(-1, keepdims=True) + 0.1)
        return cells.reshape(len(X), -1)

    def __sklearn_is_fitted__(self) -> bool:
        """Return True: no fit is needed."""
        return True


class DigitNetwork(TransformerMixin, BaseEstimator):
    """Convolutional classifier of randomly changed images; features are its last layer but one.

    Images are turned, zoomed, sheared, shifted, made thicker or thinner, and their contrast is
    changed, so that features do not depend on what collections of digits differ by.
    """

    def __init__(
        self,
        width: int = 32,
        n_features: int = 64,
        n_epochs: int = 20,
        learning_rate: float = 3e-3,
        random_state: int = 0,
    ) -> None:
        self.width = width
        self.n_features = n_features
        self.n_epochs = n_epochs
        self.learning_rate = learning_rate
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: np.ndarray) -> DigitNetwork:
        """Train on labelled images."""
        self.classes_, codes = np.unique(y, return_inverse=True)
        images, labels = as_images(X), torch.as_tensor(codes)
        with torch.random.fork_rng():
            torch.manual_seed(self.random_state)
            self.body_, self.head_ = self._networks(images.shape[-1])
            self._train(images, labels)
        return self

    def _train(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Run all epochs of Adam under a learning rate that rises and falls."""
        network = nn.Sequential(self.body_, self.head_).train()
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
        n_steps = self.n_epochs * -(-len(images) // 128)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, n_steps)
        for _ in range(self.n_epochs):
            for rows in torch.randperm(len(images)).split(128):
                loss = functional.cross_entropy(
                    network(changed(images[rows])), labels[rows], label_smoothing=0.05
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        network.eval()

    def _networks(self, side: int) -> tuple[nn.Module, nn.Module]:
        """Return the network of the features, and the linear layer behind it."""
        w = self.width
        body = nn.Sequential(
            nn.Conv2d(1, w, 3, padding=1), nn.BatchNorm2d(w), nn.ReLU(),
            nn.Conv2d(w, w, 3, padding=1), nn.BatchNorm2d(w), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(w, 2 * w, 3, padding=1), nn.BatchNorm2d(2 * w), nn.ReLU(),
            nn.Flatten(), nn.Linear(2 * w * (side // 2) ** 2, self.n_features),
            nn.BatchNorm1d(self.n_features), nn.ReLU(),
        )  # fmt: skip
        return body, nn.Linear(self.n_features, len(self.classes_))

    @torch.no_grad()
    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return the features of images."""
        return torch.cat([self.body_(part) for part in as_images(X).split(1024)]).numpy()


class DigitFeatures(TransformerMixin, BaseEstimator):
    """Features of a network beside histograms of gradients, with the same weight in distances."""

    def __init__(self, n_epochs: int = 20, *, random_state: int = 0) -> None:
        self.n_epochs = n_epochs
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: np.ndarray) -> DigitFeatures:
        """Train the network on labelled images."""
        network = DigitNetwork(n_epochs=self.n_epochs, random_state=self.random_state)
        self.parts_ = (network.fit(X, y), GradientHistograms())
        self.units_ = [np.sqrt(part.transform(X).var(0).sum()) for part in self.parts_]
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return both kinds of features of images."""
        pairs = zip(self.parts_, self.units_, strict=True)
        return np.hstack([part.transform(X) / unit for part, unit in pairs])


def as_images(X: np.ndarray) -> torch.Tensor:
    """Return rows of pixels as a batch of one-channel images."""
    side = round(X.shape[1] ** 0.5)
    return torch.as_tensor(np.asarray(X), dtype=torch.float32).reshape(-1, 1, side, side)


def changed(images: torch.Tensor) -> torch.Tensor:
    """Return the images turned, zoomed, sheared, shifted, thickened or thinned, lit otherwise."""
    n, side = len(images), images.shape[-1]

    def draw(most: float) -> torch.Tensor:
        return (2 * torch.rand(n) - 1) * most

    turn, size, aspect = draw(TURN), draw(ZOOM).exp(), draw(ZOOM / 2).exp()
    matrix = torch.zeros(n, 2, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = turn.cos() * size, -turn.sin() * size + draw(SHEAR)
    matrix[:, 1, 0], matrix[:, 1, 1] = turn.sin() * size, turn.cos() * size * aspect
    matrix[:, :, 2] = torch.stack([draw(2 * SHIFT / side), draw(2 * SHIFT / side)], 1)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, align_corners=False)
    thick, thin = functional.max_pool2d(moved, 3, 1, 1), -functional.max_pool2d(-moved, 3, 1, 1)
    share = draw(0.5)[:, None, None, None]
    moved = moved + share.clamp_min(0) * (thick - moved) + (-share).clamp_min(0) * (thin - moved)
    return moved.clamp_min(0) ** draw(GAMMA).exp()[:, None, None, None]
