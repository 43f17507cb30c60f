"""Saving estimators to one file, and loading them."""

from __future__ import annotations

import os
from typing import Any

from sklearn.base import BaseEstimator

from skwgf.persistence._allowed import name_of
from skwgf.persistence._checkpoint import Checkpoint, fingerprint
from skwgf.persistence._decode import decode
from skwgf.persistence._encode import encode
from skwgf.persistence._file import read_file, write_file

__all__ = ["Checkpoint", "SaveMixin", "fingerprint", "load", "save"]

Path = str | os.PathLike[str]


class SaveMixin:
    """What lets an estimator be saved."""

    def save(self, path: Path) -> None:
        """Save the estimator, fitted or not, to one file without any code in it.

        Parameters
        ----------
        path : str or path
            File to write, in the safetensors format. What is there is replaced in one step.

        Raises
        ------
        TypeError
            If the estimator is of a class that is not of skwgf, or holds an object that can
            neither be written nor handed back at load.

        See Also
        --------
        skwgf.load : Read the file.

        Notes
        -----
        Functions, transformers and other objects of the user are not stored: hand them back at
        load. Callbacks are left out. pickle and joblib work as well, for whoever trusts the file.
        """
        save(self, path)


def save(estimator: Any, path: Path) -> None:
    """Save an estimator of skwgf, see :meth:`SaveMixin.save`.

    Parameters
    ----------
    estimator : BaseEstimator
        An estimator, a target, a functional or a kernel, fitted or not.

    path : str or path
        File to write.

    Raises
    ------
    TypeError
        As there.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from skwgf.persistence import load, save
    >>> from skwgf.targets import Gaussian
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(Gaussian((1.0, 2.0)), Path(folder) / "gaussian.safetensors")
    ...     print(load(Path(folder) / "gaussian.safetensors"))
    Gaussian(mean=(1.0, 2.0))
    """
    if not isinstance(estimator, BaseEstimator) or name_of(type(estimator)) is None:
        raise TypeError(
            f"{type(estimator).__name__} is no public class of skwgf, and its file could not be "
            "loaded. Use pickle or joblib."
        )
    write_file(path, *encode(estimator))


def load(path: Path, /, **user_objects: Any) -> Any:
    r"""Load an estimator from a file that it was saved to.

    Nothing in the file is executed, and no class is built that is not of skwgf or a plain layer
    of a torch network.

    Parameters
    ----------
    path : str or path
        A file written by an estimator's `save`.

    **user_objects : object
        What the file does not hold, by the name of the parameter: ``target=LogDensity(fn)``,
        ``functional=fn``, ``feature_map=transformer``. Of an estimator, such as a target, only
        the functions in it are taken, the rest is in the file; an object of a class of the user
        is taken as it is, and should be fitted if the fitted estimator needs it so. Nested names,
        ``target__fn=fn``, will do as well.

    Returns
    -------
    BaseEstimator
        Ready to use, or to go on with `warm_start`. It is on the device that its parameter
        `device` names, or on the CPU, with a warning, where there is no such device.

    Raises
    ------
    ValueError
        If the file is of another kind or version, truncated, changed, or names what skwgf does
        not know; if an object has to be handed back, or is not asked for.

    Notes
    -----
    A checksum tells a damaged file from a sound one. It is no signature: it does not tell who
    wrote the file.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from pathlib import Path
    >>> from skwgf import SVGDSampler
    >>> from skwgf.persistence import load, save
    >>> from skwgf.targets import LogDensity
    >>> def bell(x):
    ...     return -0.5 * x.square().sum(1)
    >>> start = np.random.default_rng(0).normal(size=(50, 2))
    >>> sampler = SVGDSampler(LogDensity(bell)).fit(start)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "sampler.safetensors"
    ...     save(sampler, path)
    ...     again = load(path, target=LogDensity(bell))
    >>> again.ksd() == sampler.ksd()
    True
    """
    return decode(*read_file(path), user_objects)
