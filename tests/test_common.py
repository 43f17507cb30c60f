"""scikit-learn's own checks on every public estimator: none expected to fail, none skipped."""

from __future__ import annotations

import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

import skwgf
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
)
from skwgf.functionals import MeanFieldRisk, VarianceCosine
from skwgf.kernels import Gaussian
from skwgf.targets import (
    LinearRegressionPosterior,
    LogisticRegressionPosterior,
    NeuralNetworkPosterior,
)

NETWORK = NeuralNetworkPosterior(hidden_layer_sizes=(5,))
ESTIMATORS = [
    W2FlowGenerator(max_iter=5),
    W2FlowGenerator("minibatch", max_iter=5),
    W2FlowGenerator("network", max_iter=5),
    W2FlowGenerator(persistence=2, max_iter=5),
    SinkhornFlowGenerator(max_iter=5),
    SinkhornFlowGenerator(persistence=2, max_iter=5),
    SinkhornFlowGenerator("kl", standardize=False, batch_size=64, max_iter=2),
    SinkhornFlowGenerator("mmd", feature_map=StandardScaler(), batch_size=64, max_iter=2),
    SVGDSampler(n_particles=50),
    SVGDSampler(LinearRegressionPosterior(), n_particles=50),
    SVGDSampler(LogisticRegressionPosterior(), n_particles=50),
    SVGDSampler(kernel=Gaussian("median"), n_particles=20, max_iter=10),
    SVGDSampler(NETWORK, kernel=Gaussian("median"), n_particles=20, max_iter=100),
    GWGSampler(n_particles=50, max_iter=20),
    GWGSampler(LinearRegressionPosterior(), n_particles=50, max_iter=20),
    GWGSampler(LogisticRegressionPosterior(), n_particles=50, max_iter=20),
    GWGSampler(NETWORK, n_particles=20, max_iter=100),
    MeanFieldRegressor(n_particles=5, alpha=0.1, max_iter=8),
    MeanFieldClassifier(n_particles=5, alpha=0.1, max_iter=8),
    DomainAdapter(),
    SourceOnly(LogisticRegression()),
    SourceOnly(LinearRegression()),
    WSFNOptimizer(n_particles=20, max_iter=20),
    WSFNOptimizer(VarianceCosine()),
    WSFNOptimizer(MeanFieldRisk(), n_particles=20, max_iter=20),
    WSFNOptimizer(MeanFieldRisk(loss="logistic"), n_particles=20, max_iter=20),
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:(DomainAdapter|SourceOnly) was fitted without:UserWarning")
@pytest.mark.filterwarnings("ignore:The particles of (SVGD|GWG)Sampler:UserWarning")
@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_no_tag_switches_checks_off(estimator):
    tags = get_tags(estimator)
    assert not tags.non_deterministic
    assert not tags.no_validation
    assert not tags._skip_test
    assert tags.input_tags.two_d_array


def test_every_public_estimator_is_checked():
    # Bug caught: a new estimator that is exported but not in the list above.
    public = {name for name in skwgf.__all__ if hasattr(getattr(skwgf, name), "get_params")}
    assert public == {type(estimator).__name__ for estimator in ESTIMATORS}
