"""DomainAdapter in skada's pipelines. skada switches metadata routing on at import, for good, so
that it is imported in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys, warnings
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from skada import make_da_pipeline, source_target_split
from skada.datasets import make_shifted_datasets
from skada.metrics import PredictionEntropyScorer
from skada.model_selection import SourceTargetShuffleSplit
from skwgf import DomainAdapter, W2FlowGenerator
from skwgf.metrics import CircularScorer, EntropyScorer

warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
labels = rng.integers(3, size=300)
X = rng.normal(size=(300, 2)) + 6 * np.eye(3)[labels][:, :2]
domain = np.repeat([1, -2], 150)
X[150:] = X[150:] @ [[0.8, 0.6], [-0.6, 0.8]] + [2, 3]
hidden = np.where(domain > 0, labels, -1)  # what skada calls masked
target, truth = X[150:], labels[150:]


def flow():
    return W2FlowGenerator(max_iter=40, hidden_layer_sizes=(32, 32), random_state=0)


model = make_da_pipeline(StandardScaler(), DomainAdapter(flow()), KNeighborsClassifier())
model.fit(X, hidden, sample_domain=domain)
told = model.predict(X[:150], sample_domain=domain[:150], allow_source=True)
answer = {
    "adapted": model.score(target, truth),
    "told": float((told == labels[:150]).mean()),
    "stay": make_da_pipeline(StandardScaler(), KNeighborsClassifier())
    .fit(X, hidden, sample_domain=domain)
    .score(target, truth),
}
leaky = make_da_pipeline(
    StandardScaler(), DomainAdapter(flow()), KNeighborsClassifier(), mask_target_labels=True
).fit(X, labels.copy(), sample_domain=domain)
answer["same without masks"] = bool((leaky.predict(target) == model.predict(target)).all())

pipeline = make_da_pipeline(DomainAdapter(flow()), LogisticRegression())
for name, scorer in {
    "theirs": PredictionEntropyScorer(), "ours": EntropyScorer(), "circular": CircularScorer()
}.items():
    search = GridSearchCV(
        pipeline,
        {"domainadapter__flow__max_iter": [1, 40]},
        scoring=scorer,
        cv=SourceTargetShuffleSplit(n_splits=3, random_state=0),
        error_score="raise",
    ).fit(X, hidden, sample_domain=domain)
    answer[name] = search.best_params_["domainadapter__flow__max_iter"]
print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def answer():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_their_pipeline_carries_the_source(answer):
    assert answer["adapted"] > 0.95
    assert answer["stay"] < 0.85
    assert answer["told"] > 0.95
    assert answer["same without masks"]


@pytest.mark.parametrize("scorer", ["theirs", "ours", "circular"])
def test_searches_over_nested_parameters(answer, scorer):
    assert answer[scorer] == 40
