"""Searches over every estimator: what wins, and that the backend does not matter.

Sums over threads are rounded in another order than sums in one thread, so that the thread counts
have to agree for results to agree to the bit: one thread a fit here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch
from joblib import parallel_config
from scipy.stats import uniform
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.exceptions import FitFailedWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, RandomizedSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skwgf import (
    DomainAdapter,
    GWGSampler,
    MeanFieldClassifier,
    MeanFieldRegressor,
    SinkhornFlowGenerator,
    SourceOnly,
    SVGDSampler,
    W2FlowGenerator,
    WSFNOptimizer,
    sample_pipeline,
)
from skwgf.functionals import MMD
from skwgf.kernels import Gaussian as GaussianKernel
from skwgf.metrics import mmd
from skwgf.targets import (
    Gaussian,
    KernelDensityTarget,
    LinearRegressionPosterior,
    LogisticRegressionPosterior,
    NeuralNetworkPosterior,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:The particles of"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 2)) + 4.0 * RNG.integers(0, 2, size=(48, 1))
Y = X @ [1.0, -2.0] + 0.3 * RNG.normal(size=48)
C = np.where(np.median(Y) < Y, "high", "low")
TINY = {"hidden_layer_sizes": (8,), "batch_size": 32, "max_iter": 4, "random_state": 0}
FEW = {"n_particles": 16, "max_iter": 4, "random_state": 0}


def negative_mmd(estimator, X, y=None):
    """Return a figure that does not change with the functional of the estimator."""
    return -mmd(estimator.sample(16, random_state=0), X)


class Case(NamedTuple):
    estimator: object
    grid: dict
    y: np.ndarray | None = None
    scoring: object = None


CASES = {
    "w2": Case(
        W2FlowGenerator(**TINY),
        {"potential": ["semidiscrete", "minibatch"]},
    ),
    "sinkhorn": Case(
        make_pipeline(StandardScaler(), SinkhornFlowGenerator(**TINY)),
        {"sinkhornflowgenerator__reg": [0.01, 1.0], "standardscaler": [PCA()]},
    ),
    "svgd-data": Case(
        SVGDSampler(KernelDensityTarget(), **FEW), {"target__bandwidth": [0.1, 0.5, "scott"]}
    ),
    "svgd-density": Case(
        SVGDSampler(Gaussian(), kernel=GaussianKernel(1.0), max_iter=4, random_state=0),
        {"kernel__bandwidth": [0.1, 1.0, "median"], "target__mean": [(0.0, 0.0), (1.0, 1.0)]},
    ),
    "svgd-classifier": Case(
        make_pipeline(StandardScaler(), SVGDSampler(LogisticRegressionPosterior(), **FEW)),
        {"svgdsampler__target__prior_scale": [0.1, 1.0]},
        C,
        "neg_log_loss",
    ),
    "svgd-network": Case(
        SVGDSampler(NeuralNetworkPosterior((4,)), **FEW),
        {"target__hidden_layer_sizes": [(4,), (6,)]},
        Y,
    ),
    "gwg": Case(
        make_pipeline(StandardScaler(), GWGSampler(LinearRegressionPosterior(), **FEW)),
        {
            "gwgsampler__target__prior_scale": [0.1, 1.0],
            "gwgsampler__regularizer": ["lp", "quadratic"],
        },
        Y,
    ),
    "wsfn": Case(
        WSFNOptimizer(MMD(GaussianKernel(1.0)), **FEW),
        {"functional__kernel__bandwidth": [0.5, 1.0], "beta": ["auto", 0.1]},
        None,
        negative_mmd,
    ),
    "mean-field-regressor": Case(MeanFieldRegressor(**FEW), {"alpha": [0.001, 0.1]}, Y),
    "mean-field-classifier": Case(
        make_pipeline(StandardScaler(), MeanFieldClassifier(**FEW)),
        {"meanfieldclassifier__alpha": [0.001, 0.1], "meanfieldclassifier__solver": ["eigh"]},
        C,
    ),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def grid_search(case, **options):
    """Return a fitted search over the grid of a case."""
    search = GridSearchCV(
        case.estimator,
        case.grid,
        cv=2,
        scoring=case.scoring,
        refit=False,
        error_score="raise",
        **options,
    )
    return search.fit(X, case.y)


def figures(search):
    """Return all results of a search but the times."""
    return {key: value for key, value in search.cv_results_.items() if "time" not in key}


def assert_same(found, expected):
    """Compare results to the bit."""
    assert found.keys() == expected.keys()
    for key in expected:
        assert np.array_equal(found[key], expected[key]), key


@pytest.fixture(scope="module")
def alone():
    """The results of one process and one thread; the estimators stay as they were."""
    before, templates = torch.get_num_threads(), repr(CASES)
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = {name: figures(grid_search(case)) for name, case in CASES.items()}
    assert repr(CASES) == templates
    yield results
    torch.set_num_threads(before)


class TestEveryEstimator:
    @pytest.mark.parametrize("name", CASES)
    def test_grid(self, alone, name):
        # Bug caught: a nested parameter that is set on the template and never reaches the fit.
        scores = alone[name]["mean_test_score"]
        assert np.isfinite(scores).all()
        assert len(set(scores)) > 1

    @every_case
    def test_halving_over_iterations(self, case):
        name = case.estimator.steps[-1][0] + "__" if hasattr(case.estimator, "steps") else ""
        search = HalvingGridSearchCV(
            case.estimator,
            dict([next(iter(case.grid.items()))]),
            resource=f"{name}max_iter",
            min_resources=1,
            max_resources=2,
            factor=2,
            cv=2,
            scoring=case.scoring,
            error_score="raise",
            random_state=0,
        ).fit(X, case.y)
        assert search.n_iterations_ == 2
        last = search.best_estimator_[-1] if name else search.best_estimator_
        assert last.get_params()["max_iter"] == 2
        assert last.n_iter_ <= 2
        assert len(sample_pipeline(last, 3)) == 3

    def test_randomized(self):
        search = RandomizedSearchCV(
            SVGDSampler(KernelDensityTarget(), **FEW),
            {"target__bandwidth": uniform(0.1, 1.0)},
            n_iter=3,
            cv=2,
            random_state=0,
        ).fit(X)
        found = search.best_estimator_.target_
        assert found.get_params()["bandwidth"] == search.best_params_["target__bandwidth"]

    def test_domain_adapter(self):
        rng = np.random.default_rng(0)
        y = rng.integers(0, 2, size=80)
        rows = rng.normal(size=(80, 2)) + 3.0 * y[:, None]
        domain = np.tile([1, 1, -1, -1], 20)
        rows[domain < 0] += [6.0, -6.0]
        with config_context(enable_metadata_routing=True):
            flow = W2FlowGenerator(hidden_layer_sizes=(16,), random_state=0)
            model = make_pipeline(
                StandardScaler(),
                DomainAdapter(flow, target_shift="ignore"),
                SourceOnly(LogisticRegression()),
            )
            grid = {"domainadapter__flow__max_iter": [1, 40]}
            # Scored on target rows, whose labels the test may read: a map that has hardly been
            # trained leaves the source rows where they are, six deviations off.
            search = GridSearchCV(model, grid, cv=[(np.arange(80), np.flatnonzero(domain < 0))])
            search.fit(rows, y, sample_domain=domain)
        assert search.best_params_ == {"domainadapter__flow__max_iter": 40}
        assert search.best_score_ > 0.9


class TestTheRightOneWins:
    @pytest.mark.parametrize("generator", [W2FlowGenerator, SinkhornFlowGenerator])
    def test_trained_generator(self, generator):
        # A network that hardly moves stays at one bell between two clusters.
        flow = generator(**TINY | {"max_iter": 20})
        rows = np.random.default_rng(1).normal(size=(60, 1))
        rows += 6 * np.sign(rows)
        grid = {"learning_rate": [1e-7, 0.01]}
        assert GridSearchCV(flow, grid, cv=2).fit(rows).best_params_ == {"learning_rate": 0.01}

    def test_bandwidth_of_a_density(self):
        # Too narrow a kernel repeats the training rows, too wide a one fills the gap between the
        # clusters; a particle flow passes both on to held-out rows.
        sampler = SVGDSampler(KernelDensityTarget(), n_particles=100, random_state=0)
        rows = np.random.default_rng(1).normal(size=(100, 1))
        rows += 6 * np.sign(rows)
        search = GridSearchCV(sampler, {"target__bandwidth": [0.4, 10.0]}, cv=2).fit(rows)
        assert search.best_params_ == {"target__bandwidth": 0.4}

    def test_bandwidth_of_the_flow(self):
        # Without repulsion all particles go to the mode, which the discrepancy punishes.
        sampler = SVGDSampler(
            Gaussian(), kernel=GaussianKernel(1.0), optimizer="adam", step_size=0.1, random_state=0
        )
        search = GridSearchCV(sampler, {"kernel__bandwidth": [1e-4, 1.0]}, cv=2).fit(X)
        assert search.best_params_ == {"kernel__bandwidth": 1.0}

    @pytest.mark.parametrize("sampler", [SVGDSampler, GWGSampler])
    def test_the_true_prior(self, sampler):
        # 40 coefficients from N(0, 1), 60 rows: the posterior under the true prior has the best
        # predictive mean in expectation. Too narrow a prior keeps coefficients at zero, too wide a
        # one fits the noise. Bug caught: prior_scale squared or inverted.
        rng = np.random.default_rng(0)
        rows = rng.normal(size=(60, 40))
        y = rows @ rng.normal(size=40) + 3.0 * rng.normal(size=60)
        target = LinearRegressionPosterior(noise_scale=3.0, normalize_y=False)
        options = {"n_particles": 60} | ({"max_iter": 60} if sampler is GWGSampler else {})
        search = GridSearchCV(
            sampler(target, random_state=0, **options),
            {"target__prior_scale": [0.03, 1.0, 30.0]},
            cv=3,
        ).fit(rows, y)
        assert search.best_params_ == {"target__prior_scale": 1.0}

    def test_labels_without_meaning_want_a_narrow_prior(self):
        # Log loss of coin flips is least, log 2, at coefficients zero.
        y = np.random.default_rng(3).integers(0, 2, size=48)
        search = GridSearchCV(
            SVGDSampler(LogisticRegressionPosterior(), n_particles=30, random_state=0),
            {"target__prior_scale": [0.01, 10.0]},
            scoring="neg_log_loss",
            cv=3,
        ).fit(X, y)
        assert search.best_params_ == {"target__prior_scale": 0.01}
        assert search.best_score_ == pytest.approx(-np.log(2), abs=0.01)

    def test_more_points_quantise_better(self):
        # The least MMD over n points falls with n, as doubling all points keeps it.
        quantiser = WSFNOptimizer(random_state=0, max_iter=30)
        search = GridSearchCV(quantiser, {"n_particles": [2, 12]}, cv=2).fit(X)
        assert search.best_params_ == {"n_particles": 12}

    @pytest.mark.parametrize(("noise", "alpha"), [(0.0, 1e-4), (5.0, 0.3)])
    def test_penalty_follows_the_noise(self, noise, alpha):
        rng = np.random.default_rng(0)
        rows = rng.uniform(-2, 2, size=(80, 2))
        y = np.sin(2 * rows[:, 0]) + noise * rng.normal(size=80)
        network = MeanFieldRegressor(n_particles=20, random_state=0)
        search = GridSearchCV(network, {"alpha": [1e-4, 0.3]}, cv=2).fit(rows, y)
        assert search.best_params_ == {"alpha": alpha}

    def test_penalty_of_a_classifier(self):
        rows, y = load_iris(return_X_y=True)
        network = MeanFieldClassifier(n_particles=20, max_iter=20, random_state=0)
        search = GridSearchCV(network, {"alpha": [1e-3, 1e4]}, cv=3).fit(rows, y)
        assert search.best_params_ == {"alpha": 1e-3}
        assert search.best_score_ > 0.93


class TestBackends:
    def test_threads(self, alone):
        with parallel_config(backend="threading"):
            for name, case in CASES.items():
                assert_same(figures(grid_search(case, n_jobs=2)), alone[name])

    @pytest.mark.slow  # two workers import everything
    def test_processes(self, alone):
        with parallel_config(backend="loky", inner_max_num_threads=1):
            for name, case in CASES.items():
                assert_same(figures(grid_search(case, n_jobs=2)), alone[name])

    @pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)])
    @pytest.mark.filterwarnings("error")
    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
    @pytest.mark.filterwarnings("ignore:The particles of")
    def test_cluster(self, alone, processes):
        distributed = pytest.importorskip("distributed")
        with (
            distributed.LocalCluster(
                processes=processes, n_workers=2, threads_per_worker=1, dashboard_address=None
            ) as cluster,
            distributed.Client(cluster),
            parallel_config(backend="dask"),
        ):
            for name, case in CASES.items():
                assert_same(figures(grid_search(case, n_jobs=-1)), alone[name])

    def test_a_pool_of_threads_takes_no_more_cores_than_it_has_workers(self):
        # In a process of three threads: fits and scores of a pool compute with one each, all
        # others with three, and nothing stays changed. Bug caught: n_jobs times as many threads
        # as cores, in the fit or in the score; torch.set_num_threads, which threads to come
        # inherit.
        script = """
import json, threading, warnings
import numpy as np, torch
from joblib import Parallel, delayed, parallel_config
from sklearn.model_selection import cross_val_score
import skwgf
from skwgf import SVGDSampler
from skwgf.targets import LogDensity

warnings.simplefilter("ignore")
torch.set_num_threads(3)
seen = []

def bell(x):
    seen.append(torch.get_num_threads())
    return -0.5 * x.square().sum(1)

X = np.random.default_rng(0).normal(size=(40, 2))
sampler = SVGDSampler(LogDensity(bell), max_iter=2, random_state=0)

class Rows:
    def __array__(self, dtype=None, copy=None):
        seen.append(torch.get_num_threads())
        return X.astype(dtype or X.dtype)

def counts(work):
    seen.clear()
    work()
    return sorted(set(seen))

def in_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

def pool():
    with parallel_config(backend="threading", n_jobs=2):
        cross_val_score(sampler, X, cv=2)

def scores(name):
    model = getattr(skwgf, name)(max_iter=1, random_state=0).fit(X, X[:, 0] > 0)
    tasks = [delayed(model.score)(Rows(), X[:, 0] > 0) for _ in range(2)]
    return counts(lambda: Parallel(n_jobs=2, backend="threading")(tasks))

names = "W2FlowGenerator SinkhornFlowGenerator SVGDSampler GWGSampler WSFNOptimizer "
names += "MeanFieldRegressor MeanFieldClassifier"
answer = {
    "alone": counts(lambda: sampler.fit(X)),
    "pool": counts(pool),
    "thread": counts(lambda: in_thread(lambda: sampler.fit(X))),
    "scores": {name: scores(name) for name in names.split()},
    "after": torch.get_num_threads(),
}
print(json.dumps(answer))
"""
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        answer = json.loads(done.stdout)
        scores = answer.pop("scores")
        assert len(scores) == 7
        assert all(counts == [1] for counts in scores.values()), scores
        assert answer == {"alone": [3], "pool": [1], "thread": [3], "after": 3}


class TestFailures:
    def test_a_failing_candidate_is_reported_and_does_not_win(self):
        search = GridSearchCV(W2FlowGenerator(**TINY), {"learning_rate": [-1.0, 0.01]}, cv=2)
        with pytest.warns(FitFailedWarning, match=r"'learning_rate' parameter of W2FlowGenerator"):
            search.fit(X)
        assert search.best_params_ == {"learning_rate": 0.01}
        assert np.isnan(search.cv_results_["mean_test_score"][0])
        assert search.cv_results_["rank_test_score"].tolist() == [2, 1]

    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
    def test_when_all_fail_the_message_says_why(self):
        search = GridSearchCV(
            SVGDSampler(LinearRegressionPosterior()), {"target__prior_scale": [-1.0, -2.0]}, cv=2
        )
        with pytest.raises(ValueError, match=r"(?s)fits failed.*prior_scale must be"):
            search.fit(X, Y)
        with pytest.raises(ValueError, match="prior_scale must be"):
            clone(search).set_params(error_score="raise").fit(X, Y)

    def test_a_checkpoint_without_a_seed(self, tmp_path):
        flow = W2FlowGenerator(checkpoint=tmp_path / "c", max_iter=1)
        with pytest.raises(ValueError, match="checkpoint needs a random_state"):
            GridSearchCV(flow, {"learning_rate": [0.01]}, cv=2, error_score="raise").fit(X)

    @pytest.mark.parametrize(
        ("estimator", "grid", "best"),
        [
            (W2FlowGenerator(**TINY | {"max_iter": 40}), {"learning_rate": [1e30, 0.01]}, 0.01),
            (
                SVGDSampler(Gaussian(), kernel=GaussianKernel(1.0), optimizer="euler"),
                {"step_size": [1e200, 0.5]},
                0.5,
            ),
        ],
        ids=["w2", "svgd"],
    )
    def test_a_flow_that_blows_up_does_not_win(self, estimator, grid, best):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            search = GridSearchCV(estimator, grid, cv=2).fit(5 * X)
        assert list(search.best_params_.values()) == [best]
        assert not np.isinf(search.cv_results_["mean_test_score"]).any()

    def test_nan_never_wins(self):
        def scorer(estimator, X, y=None):
            return np.nan if estimator.n_particles == 12 else estimator.score(X)

        with pytest.warns(UserWarning, match="non-finite"):
            search = GridSearchCV(
                WSFNOptimizer(random_state=0, max_iter=3),
                {"n_particles": [2, 12]},
                scoring=scorer,
                cv=2,
            ).fit(X)
        assert search.best_params_ == {"n_particles": 2}
