"""What all estimators whose measure is a cloud of particles share: draws, and given starts."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skwgf._tensor import draw_seed, make_generator, tensor_to_array, to_numpy
from skwgf.estimators._generator import choose

# Independent random streams of one fit.
START, FLOW = 1, 2


class ParticlesMixin:
    """Draws from `particles_`."""

    particles_: NDArray[Any]

    def sample(
        self,
        n_samples: int = 1,
        *,
        random_state: int | np.random.RandomState | None = None,
    ) -> NDArray[Any]:
        """Draw rows of `particles_`.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows, at least 1.

        random_state : int, RandomState instance or None, default=None
            Seed of the choice. None chooses afresh at every call.

        Returns
        -------
        ndarray of shape (n_samples, n_parameters)
            All particles in their order when `n_samples` is their number, distinct ones below it,
            and draws with replacement above.

        Raises
        ------
        ValueError
            If `n_samples` is below 1.
        TypeError
            If `n_samples` is not an integer.
        """
        check_is_fitted(self, "particles_")
        n = int(check_scalar(n_samples, "n_samples", Integral, min_val=1))
        if n == len(self.particles_):
            return self.particles_.copy()
        generator = make_generator(draw_seed(random_state))
        rows: NDArray[Any] = self.particles_[to_numpy(choose(len(self.particles_), n, generator))]
        return rows


def check_earlier(cloud: Tensor, n_dim: int, what: str) -> None:
    """Refuse to go on with particles of another number of coordinates than `what` has now."""
    if cloud.shape[1] != n_dim:
        raise ValueError(
            f"warm_start=True goes on with {len(cloud)} particles of {cloud.shape[1]} coordinates, "
            f"but the {what} has {n_dim} now. Set warm_start=False, or fit a clone."
        )


def given_particles(
    init: Any, n_columns: int, *, n_particles: int | None, n_clouds: int = 1
) -> NDArray[np.float64]:
    """Return the particles that a user gives, of all clouds, one after the other."""
    rows = np.asarray(tensor_to_array(init), dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != n_columns or len(rows) == 0:
        raise ValueError(
            f"init must be a table of particles with {n_columns} columns, those of particles_, got "
            f"shape {rows.shape}."
        )
    if not np.isfinite(rows).all():
        raise ValueError("init contains NaN or infinity.")
    each = len(rows) // n_clouds
    if each * n_clouds != len(rows) or n_particles not in (None, each):
        raise ValueError(
            f"init has {len(rows)} particles for all clouds together, which does not fit "
            f"n_restarts={n_clouds} and n_particles={n_particles}. Leave n_particles out, and "
            "pass as many rows for each restart."
            if n_clouds > 1
            else f"init has {len(rows)} particles, but n_particles={n_particles}. Leave "
            "n_particles out."
        )
    return rows
