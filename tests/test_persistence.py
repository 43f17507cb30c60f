"""Saved estimators come back the same, and damaged files do not come back at all."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import os
import pickle
import subprocess
import sys
import warnings

import joblib
import numpy as np
import pytest
import sklearn
import torch
from persistence_cases import CASES, X, answers, bell, difference, gap
from sklearn.base import BaseEstimator, MetaEstimatorMixin
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skwgf
from skwgf import SVGDSampler, W2FlowGenerator, estimators, functionals, kernels, targets
from skwgf.persistence import load, save
from skwgf.persistence._allowed import allowed
from skwgf.persistence._file import read_file, write_file

every_case = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module")
def fits():
    """Fit every case once, on demand."""
    found = {}

    def fit(name):
        if name not in found:
            found[name] = CASES[name].fit()
        return found[name]

    return fit


@pytest.fixture
def file(tmp_path):
    return tmp_path / "estimator.safetensors"


@every_case
def test_what_is_saved_comes_back(fits, file, name):
    # All parameters and attributes, shared objects and private ones among them, to the last bit:
    # whatever a class keeps and a file forgets shows here.
    case, estimator = CASES[name], fits(name)
    save(estimator, file)
    again = load(file, **case.hand_back)
    assert type(again) is type(estimator)
    given = {"feature_map_"} if "feature_map" in case.hand_back else set()
    for key in {*vars(estimator), *vars(again)} - given:
        assert difference(vars(estimator)[key], vars(again)[key], key) == ""
    assert difference(answers(estimator, case), answers(again, case)) == ""


@pytest.mark.parametrize(
    "name",
    [
        *("w2 source", "sinkhorn conditional", "svgd logistic", "svgd log density", "gwg"),
        *("wsfn", "neurons labels"),
    ],
)
def test_a_loaded_fit_goes_on_as_the_saved_one(fits, file, name):
    # The state of the training comes along: weights, optimiser, cloud and history.
    case = CASES[name]
    estimator = copy.deepcopy(fits(name)).set_params(warm_start=True)
    save(estimator, file)
    again = load(file, **case.hand_back)
    case.fit(estimator), case.fit(again)
    assert len(again.history_["objective"]) == 6
    estimator.history_.pop("seconds"), again.history_.pop("seconds")
    assert difference(vars(estimator), vars(again)) == ""


@every_case
def test_pickle_joblib_and_deepcopy(fits, file, name):
    case, estimator = CASES[name], fits(name)
    joblib.dump(estimator, file)
    expected = answers(estimator, case)
    for again in (
        pickle.loads(pickle.dumps(estimator)),
        joblib.load(file),
        copy.deepcopy(estimator),
    ):
        assert difference(expected, answers(again, case)) == ""


def test_every_public_class_can_be_saved(file):
    # A class that is added is in the table by being public; its attributes are the cases' concern.
    used = {type(case.make()).__name__ for case in CASES.values()}
    for module in (estimators, functionals, kernels, targets):
        for name in module.__all__:
            member = getattr(module, name)
            if not inspect.isclass(member) or not issubclass(member, BaseEstimator):
                continue
            if issubclass(member, MetaEstimatorMixin):  # wraps what is the user's own
                continue
            assert member in allowed().values()
            if module is estimators:
                assert name in used, f"add a case of {name} to persistence_cases.py"


@pytest.mark.parametrize("how", ["object", "str", "path"])
def test_kinds_of_paths(tmp_path, how):
    path = tmp_path / "with spaces.safetensors"
    given = {"object": path, "str": str(path), "path": os.fspath(path)}[how]
    save(targets.Banana(scale=3.0), given)
    assert load(given).scale == 3.0
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]  # and no draft is left


def test_unfitted_estimators_keep_their_parameters(file):
    init = np.asfortranarray([[0.0, np.inf], [np.nan, 1.0]])
    params = {
        "init": init,
        "dtype": np.float32,
        "random_state": np.random.RandomState(3),
        "device": torch.device("cpu"),
        "max_iter": np.int64(7),
        "step_size": float("inf"),
        "kernel": None,
    }
    save(SVGDSampler(targets.Gaussian(mean=[1.0, 2.0], covariance=np.eye(2)), **params), file)
    again = load(file)
    loaded = again.get_params(deep=False)
    assert difference(loaded["init"], init) == ""
    assert loaded["init"].flags.f_contiguous
    assert loaded["random_state"].randint(10**6) == np.random.RandomState(3).randint(10**6)
    for key in ("dtype", "device", "max_iter", "step_size", "kernel"):
        assert loaded[key] == params[key]
        assert type(loaded[key]) is type(params[key])
    assert again.target.mean == [1.0, 2.0]
    assert not hasattr(again, "particles_")


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["b", "a"], dtype=object),
        np.array(["b", "aé\0x"]),
        np.array([True, False]),
        np.array([3, 1], dtype=np.int8),
        np.array(["2020-01-01", "2021-01-01"], dtype="M8[D]"),
        np.array([1.5, 2.5], dtype=">f8"),
        np.array([b"x"])[:0].astype(str),
        np.arange(24.0).reshape(2, 3, 4)[:, ::2],
        np.array(3.0),
    ],
    ids=["object", "str", "bool", "int8", "dates", "big-endian", "empty", "strided", "scalar"],
)
def test_kinds_of_arrays(file, labels):
    save(targets.Gaussian(mean=labels), file)
    again = load(file).mean
    assert again.shape == labels.shape
    assert again.dtype.kind == labels.dtype.kind
    assert np.array_equal(again, labels)
    assert again.flags.writeable


def test_settings_of_scikit_learn_come_along(fits, file):
    estimator = copy.deepcopy(fits("w2 frame float32")).set_output(transform="pandas")
    with sklearn.config_context(enable_metadata_routing=True):
        estimator.set_fit_request(X_source=True, y_source="labels")
    save(estimator, file)
    again = load(file)
    assert list(again.transform(CASES["w2 frame float32"].X).columns) == ["width", "height"]
    assert again.get_metadata_routing().fit.requests == {"X_source": True, "y_source": "labels"}


def test_callbacks_stay_behind(file):
    class Counter:
        def setup(self, estimator, context): ...
        def teardown(self, estimator, context): ...
        def on_fit_task_begin(self, estimator, context, **kwargs): ...
        def on_fit_task_end(self, estimator, context, **kwargs): ...

    estimator = W2FlowGenerator().set_callbacks(Counter())
    save(estimator, file)
    assert vars(load(file)).keys() == W2FlowGenerator().__dict__.keys()


def test_the_method_and_the_public_name(fits, file):
    fits("w2").save(file)
    again = skwgf.load(file)
    assert np.array_equal(again.sample(3, random_state=0), fits("w2").sample(3, random_state=0))


# ---- what the user hands back


def test_functions_have_to_be_handed_back(fits, file):
    save(fits("svgd log density"), file)
    with pytest.raises(ValueError, match=r"target__fn \(a function\).*load\(path, target=\.\.\.\)"):
        load(file)
    fitted = targets.LogDensity(bell).fit(X)
    for given in ({"target": bell}, {"target": fitted}, {"target__fn": bell}):
        again = load(file, **given)
        assert again.target.fn is bell
        assert again.target_.fn is bell
        assert again.ksd() == fits("svgd log density").ksd()


class Bell(torch.nn.Module):
    """A module of the user's own."""

    def forward(self, x):
        return bell(x)


def weighted_bell(weight, x):
    return weight * bell(x)


@pytest.mark.parametrize(
    "fn",
    [Bell(), Bell().forward, functools.partial(weighted_bell, 2.0), lambda x: bell(x)],
    ids=["module", "method", "partial", "lambda"],
)
def test_kinds_of_functions(file, fn):
    # Cloning copies some of them: the parameter and its fitted copy then hold different objects.
    sampler = SVGDSampler(targets.LogDensity(fn), max_iter=2, random_state=0)
    with warnings.catch_warnings(action="ignore"):
        sampler.fit(X)
    save(sampler, file)
    assert load(file, target=fn).ksd() == sampler.ksd()


def test_what_is_not_asked_for_is_an_error(fits, file):
    # A misspelt name must not pass.
    save(fits("wsfn"), file)
    with pytest.raises(ValueError, match="asks for nothing to be handed back, got functional"):
        load(file, functional=functionals.MMD())
    save(fits("wsfn function"), file)
    with pytest.raises(ValueError, match="functional"):
        load(file, functionl=gap)


def test_an_object_without_the_part_is_an_error(fits, file):
    save(fits("svgd numpy"), file)
    with pytest.raises(ValueError, match="has no grad"):
        load(file, target=targets.LogDensity(bell))


class MyTarget(targets.Gaussian):
    """A target of the user's own."""


def test_objects_of_classes_of_the_user(file):
    target = MyTarget()
    estimator = SVGDSampler(target, max_iter=2, random_state=0)
    with warnings.catch_warnings(action="ignore"):
        estimator.fit(X)
    save(estimator, file)
    again = load(file, target=MyTarget().fit(X))
    assert isinstance(again.target_, MyTarget)
    assert again.ksd() == estimator.ksd()


def test_what_can_be_neither_written_nor_handed_back(file):
    with pytest.raises(TypeError, match="no public class"):
        save(make_pipeline(StandardScaler()), file)
    with pytest.raises(TypeError, match=r"function at .*\.mean\[1\]"):
        save(targets.Gaussian(mean=[1.0, bell]), file)
    nested = 1.0
    for _ in range(200):
        nested = [nested]
    with pytest.raises(TypeError, match="nested"):
        save(targets.Gaussian(mean=nested), file)
    assert not file.exists()


# ---- devices


@pytest.mark.parametrize("device", ["cuda", "cuda:7", torch.device("cuda", 1)])
@pytest.mark.skipif(torch.cuda.is_available(), reason="the machine has what should be missing")
def test_fits_of_other_machines_are_loaded_to_the_cpu(fits, file, device):
    # As written where there was a device: its tensors and devices are marked so.
    save(fits("svgd logistic"), file)
    document, arrays = read_file(file)
    text = json.dumps(document)
    text = text.replace('"place": "cpu"', '"place": "device"')
    text = text.replace('{"type": "place", "name": "cpu"}', '{"type": "place", "name": "device"}')
    document = json.loads(text)
    name = {"type": "device", "name": str(device)} if isinstance(device, torch.device) else device
    document["root"]["params"]["device"] = name
    write_file(file, document, arrays)
    with pytest.warns(UserWarning, match="not available here: it is loaded to the CPU"):
        again = load(file)
    case = CASES["svgd logistic"]
    assert again.device == device
    assert again.target_.device_ == torch.device("cpu")
    assert difference(answers(fits("svgd logistic"), case), answers(again, case)) == ""


def test_tensors_elsewhere_are_marked(file):
    # The meta device stands for an accelerator: what is on it must ask for one at load.
    target = targets.Gaussian()
    target.device_ = torch.device("meta")
    save(target, file)
    assert read_file(file)[0]["root"]["attributes"]["device_"] == {
        "type": "place",
        "name": "device",
    }


# ---- files that are not what they should be


@pytest.fixture(scope="module")
def content(fits, tmp_path_factory):
    """The bytes of a small file."""
    path = tmp_path_factory.mktemp("file") / "sound"
    save(fits("svgd banana"), path)
    return path.read_bytes()


def refuse(file, content, match=None):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=match):
        load(file)


def test_truncated_and_extended_files(file, content):
    rng = np.random.default_rng(0)
    for length in [0, 1, 7, 8, 9, *rng.integers(10, len(content), 40), len(content) - 1]:
        refuse(file, content[:length])
    refuse(file, content[:-1], match="truncated")
    refuse(file, content + b"\0", match="something was added")


def test_changed_bytes(file, content):
    # Every byte counts, of the header and its padding as well as of the numbers.
    rng = np.random.default_rng(1)
    for place in rng.choice(len(content), 200, replace=False):
        changed = bytearray(content)
        changed[place] ^= 1 << rng.integers(8)
        refuse(file, changed)


def test_random_bytes(file):
    rng = np.random.default_rng(2)
    for _ in range(40):
        size = int(rng.integers(1, 400))
        noise = rng.integers(0, 256, size, dtype=np.uint8).tobytes()
        refuse(file, noise)
        refuse(file, size.to_bytes(8, "little") + noise)
        refuse(file, (20).to_bytes(8, "little") + b'{"__metadata__":{}}  ' + noise)


def test_headers_that_would_take_all_memory(file):
    refuse(file, (2**62).to_bytes(8, "little") + b"{}")
    refuse(file, (100_002).to_bytes(8, "little") + b"[" * 50_000 + b"]" * 50_002)


def test_other_formats(file, content, tmp_path):
    refuse(file, pickle.dumps(StandardScaler()), match=r"pickle\.load")
    from safetensors.numpy import save as plain

    refuse(file, plain({"weights": np.ones(3)}), match="no.* file that an estimator|not a file")
    refuse(file, content.replace(b'"skwgf-format":"1"', b'"skwgf-format":"2"'), match="reads form")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nowhere")


def forge(file, document, arrays=None):
    """Write a sound file with a document of one's own."""
    write_file(file, document, arrays or {})
    return file


@pytest.mark.parametrize(
    "node",
    [
        {"type": "function", "name": "os.system"},
        {"type": "function", "name": "builtins.eval"},
        {"type": "estimator", "class": "subprocess.Popen", "object": 0, "params": {"args": "true"}},
        {"type": "record", "class": "skwgf.base.BaseFlow", "object": 0, "fields": {}},
        {
            "type": "estimator",
            "class": "skwgf.functionals._radial._power",
            "object": 0,
            "params": {},
        },
        {"type": "module", "class": "skwgf.targets.Gaussian", "object": 0, "training": True},
        {"type": "partial", "function": {"type": "function", "name": "builtins.exec"}},
        {"type": "torch_dtype", "name": "load"},
        {"type": "pickle", "data": "gASVAAAA"},
        {"type": "array", "data": ["0", False], "time": "O"},
        {"type": "same", "object": 3},
        {"type": "user", "key": "target"},
        {"type": "array", "data": ["9", False]},
        {"type": ["list"]},
        {"list": []},
        [1, 2],
    ],
    ids=str,
)
def test_unknown_nodes(file, node):
    document = {"root": {"type": "list", "items": [node]}, "users": {}}
    with pytest.raises(ValueError):
        load(forge(file, document, {"0": np.arange(2)}))


def test_documents_that_are_none(file):
    for document in (None, [], {}, {"root": None}, {"root": 3, "users": [1]}, {"users": {}}):
        with pytest.raises(ValueError):
            load(forge(file, document))
    deep = 0
    for _ in range(300):
        deep = {"type": "list", "items": [deep]}
    with pytest.raises(ValueError, match="nested too deeply"):
        load(forge(file, {"root": deep, "users": {}}))


def mutate(node, rng):
    """Change something in a JSON tree, in place."""
    items = list(node.items()) if isinstance(node, dict) else list(enumerate(node))
    if not items:
        return
    key, value = items[rng.integers(len(items))]
    if isinstance(value, dict | list) and rng.random() < 0.85:
        mutate(value, rng)
        return
    values = [None, -1, 10**30, "x", "0", [], {}, True, 0.5, "skwgf.targets.Banana", [value]]
    if isinstance(node, dict) and rng.random() < 0.3:
        del node[key]
    else:
        node[key] = values[rng.integers(len(values))]


@pytest.mark.parametrize("name", ["gwg density", "w2 source", "wsfn interaction"])
def test_changed_documents_with_a_new_checksum(fits, file, name):
    # What a checksum cannot tell. Either a value is accepted, or a ValueError comes out, never
    # another error, and nothing is run.
    case, rng = CASES[name], np.random.default_rng(3)
    save(fits(name), file)
    document, arrays = read_file(file)
    refused = 0
    for _ in range(50):
        changed = copy.deepcopy(document)
        for _ in range(rng.integers(1, 4)):
            mutate(changed, rng)
        forge(file, changed, arrays)
        try:
            with warnings.catch_warnings(action="ignore"):
                load(file, **case.hand_back)
        except ValueError:
            refused += 1
    assert refused > 15


def test_the_old_file_stays_when_writing_fails(fits, file, monkeypatch):
    save(fits("svgd banana"), file)
    before = file.read_bytes()

    def fail(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        save(fits("w2"), file)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_new_process_loads_and_unpickles_nothing(fits, file):
    # The modules that the classes are in need not have been imported, and pickle is never called.
    save(fits("gwg density"), file)
    code = f"""
import pickle, sys
def refuse(*args, **kwargs):
    raise AssertionError("pickle was used")
pickle.load = pickle.loads = pickle.Unpickler = refuse
from skwgf.persistence import load
print(load({str(file)!r}).sample(1, random_state=0).tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == fits("gwg density").sample(1, random_state=0).tolist()


def test_the_file_is_readable_elsewhere(fits, file):
    # Any reader of safetensors sees the numbers.
    from safetensors import safe_open

    save(fits("svgd banana"), file)
    particles = fits("svgd banana").particles_
    with safe_open(file, "numpy") as opened:
        found = [opened.get_tensor(name) for name in opened.keys()]  # noqa: SIM118
    assert any(array.shape == particles.shape and (array == particles).all() for array in found)
