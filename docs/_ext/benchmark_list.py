"""What the benchmark pages show: the tables and the pictures of every script."""

from __future__ import annotations

from benchmark_tables import Benchmark, Table

_METHOD = {"method": "method"}
_SHAPE = {
    "w1": "W1",
    "w2": "W2",
    "mass_tv": "masses, TV",
    "off_mode": "off the modes",
    "eigenvalue_min": "least eigenvalue ratio",
    "trace_median": "median trace ratio",
    "eigenvalue_max": "greatest eigenvalue ratio",
    "two_sample": "two-sample accuracy",
}
_CLOUD = {
    "error": "max mean error / sd",
    "sd_least": "least sd ratio",
    "sd_greatest": "greatest sd ratio",
    "evaluations": "evaluations",
    "seconds": "processor s",
}
_PASSES = {
    "fit_processor_seconds": "fit, processor s",
    "sample_processor_seconds": "10,000 draws, processor s",
    "passes": "passes a draw",
}
_FIT = {"fit_processor_seconds": "fit, processor s"}
_LIKENESS = {
    "two_sample": "two-sample accuracy",
    "variance": "within-mode variance",
    "synthetic_to_real": "1-NN, synthetic to real",
    "neighbor_ratio": "neighbour-distance ratio",
}
_MOMENTS = {
    "mean_error": "largest error of a mean, sd",
    "sd_min": "least sd ratio",
    "sd_max": "greatest sd ratio",
    "correlation_error": "largest error of a correlation",
}
_TRAINED = {
    "w1": "W1",
    "w2": "W2",
    "updates": "iterations",
    "epochs": "epochs",
    "reached": "W2 to a third, share of the seeds",
    "seconds_to_level": "processor s to there",
    "epochs_to_level": "epochs to there",
}
_DIGITS_SHOWN = {"shown": ("", "True")}


def _digits(figure: str, heading: str) -> Table:
    """Return accuracies of one classifier, by pair of collections, features and method."""
    return Table(
        "digits_adaptation",
        {"case": "source to target", "features": "features"},
        {figure: heading},
        _DIGITS_SHOWN,
        across="method",
        title=f"{heading}.",
    )


def _shifted(figure: str, heading: str) -> Table:
    """Return accuracies of one classifier over simulated shifts and batch effects."""
    return Table(
        "domain_shift",
        {"method": "method", "setting": "setting"},
        {figure: heading},
        across="case",
        title=f"{heading}, at every setting that was tried.",
    )


def _generation(name: str, setting: dict[str, str]) -> Table:
    """Return the figures of generated digits."""
    figures = {
        "synthetic_to_real": "1-NN, synthetic to real",
        "two_sample": "two-sample accuracy",
        "generated_found": "generated recognised",
        "real_found": "real recognised",
        "neighbor_ratio": "neighbour-distance ratio",
    }
    if not setting:
        figures |= {
            "seconds": "fit, processor s",
            "sample_seconds": "10,000 draws, processor s",
            "passes": "passes a draw",
        }
    return Table(name, _METHOD | setting, figures)


def _shaped(kinds: tuple[str, ...], figures: dict[str, str], title: str) -> Table:
    """Return figures of the default W2FlowGenerator, by the kind of data."""
    return Table("w2_shapes", {"data": "data"}, figures | _FIT, {"kind": kinds}, title=f"{title}.")


def _trained(law: str) -> Table:
    """Return the ends of training runs on one law."""
    where = {"part": "curves", "at": "end", "law": law}
    return Table(
        "persistence", _METHOD, _TRAINED, where, title=f"{law}: after the same processor time."
    )


def _persistent(at: str, heading: str) -> Table:
    """Return distances by the number of optimiser steps on the same pairs."""
    return Table(
        "persistence",
        {"step_size": "step in flow time", "persistence": "K"},
        {"w1": "W1", "w2": "W2"},
        {"part": "sweep", "at": at},
        title=f"Ring of 8, potential networks, one setting for all K: {heading}.",
    )


def _carried(carrier: str, figure: str, heading: str) -> Table:
    """Return a figure of the sweep over regularisations, by field."""
    where = {"carrier": carrier}
    return Table(
        "mode_coverage",
        {"reg": "reg / mean cost"},
        {figure: heading},
        where,
        across="field",
        title=f"{carrier[0].upper()}{carrier[1:]}: {heading}.",
    )


def _engine(start: str, figure: str, heading: str) -> Table:
    """Return a figure of the entropic velocities, by contender."""
    return Table(
        "sinkhorn_engine",
        {"n": "n", "d": "d", "reg": "reg / mean cost"},
        {figure: heading},
        {"part": "velocity", "start": start},
        across="name",
        title=f"Entropic velocity, {start} start: {heading}.",
    )


BENCHMARKS = {
    "ring": Benchmark(
        "from noise to eight Gaussians",
        (
            Table("ring", _METHOD, _SHAPE | _PASSES),
            Table(
                "ring_tuning",
                _METHOD,
                {"w1": "W1"},
                across="learning_rate",
                title="W1 to a validation sample, by learning rate.",
            ),
        ),
    ),
    "w2_shapes": Benchmark(
        "one setting for modes, curves, digits and tables",
        (
            Table(
                "w2_shapes",
                {"data": "data", "method": "method"},
                _SHAPE | {"rare_mass": "mass of the rare modes"} | _FIT,
                {"kind": "modes"},
                title="Laws of modes.",
            ),
            _shaped(("curves", "mixture", "digits"), _LIKENESS, "Curves, a mixture, and digits"),
            _shaped(("tables",), _MOMENTS, "Tables, moments of draws against those of the rows"),
            Table(
                "w2_shapes",
                {"n": "rows"},
                {"seconds": "processor seconds"},
                {"kind": "time"},
                across="data",
                title="Processor seconds of a fit by the number of rows.",
            ),
        ),
        {"w2_shapes.png": "Time of a fit by the number of rows."},
    ),
    "one_step": Benchmark(
        "one network pass a draw",
        (
            Table(
                "one_step", _METHOD, _SHAPE | _PASSES, {"law": "Ring of 8"}, title="Ring of eight."
            ),
            Table(
                "one_step",
                _METHOD,
                _SHAPE | {"rare_mass": "mass of the rare modes, share"} | _PASSES,
                {"law": "Six plus two"},
                title="Six heavy modes and two rare ones.",
            ),
            Table(
                "one_step_transfer",
                _METHOD,
                {
                    "w2_law": "W2 of the mapped law",
                    "w2_unseen": "W2 of new rows, mapped",
                    "w2_fitted": "W2 of fitted rows, mapped",
                    "displacement": "mean squared displacement / W2²",
                    "fit_processor_seconds": "fit, processor s",
                },
                title="From an oval to a circle.",
            ),
        ),
        {
            "one_step.png": "Quality against the time of sampling.",
            "one_step_transfer.png": "New rows of the oval, and where they land.",
        },
    ),
    "persistence": Benchmark(
        "one step on the same pairs, or many",
        (
            _trained("Ring of 8"),
            _trained("Ten modes in 8 columns"),
            _persistent("end", "after the same processor time"),
            _persistent("updates", "after as many updates of the potential"),
        ),
        {
            "persistence.png": "W1 and W2 along the training, mean and range of the seeds.",
            "persistence_sweep.png": "W1 and W2 by persistence.",
        },
    ),
    "mode_coverage": Benchmark(
        "rare modes, kept or lost",
        (
            _carried("particles at rest", "rare", "mass of the rare modes, share of the right one"),
            _carried("particles at rest", "mass_tv", "total variation of the masses"),
            _carried("network, loop", "rare", "mass of the rare modes, share of the right one"),
            _carried("network, loop", "mass_tv", "total variation of the masses"),
        ),
        {"mode_coverage.png": "Rare modes and masses over the regularisation."},
    ),
    "finite_sample": Benchmark(
        "from batches to the law",
        (
            Table(
                "finite_sample",
                {"state": "state", "reg": "reg / mean cost", "batches": "self term"},
                {"error": "error"},
                {"method": ""},
                across="size",
                title="Mean error of the velocity, by the number of rows in a batch.",
            ),
            Table(
                "finite_sample",
                {"size": "rows"},
                {"w1": "W1"},
                {"method": ("generator", "the rows themselves", "independent draws of the law")},
                across="method",
                title="W1 to the law of generators fitted to some rows.",
            ),
        ),
        {"finite_sample.png": "Errors against the number of rows."},
    ),
    "tables": Benchmark(
        "synthetic tables",
        (
            Table(
                "tables",
                {"table": "table", "method": "method"},
                {
                    "forest": "forest, synthetic to real",
                    "linear": "linear model, synthetic to real",
                    "w1": "W1 to test rows",
                    "two_sample": "two-sample accuracy",
                    "neighbor_ratio": "neighbour-distance ratio",
                    "mean_error": "means",
                    "sd_error": "standard deviations",
                    "correlation_error": "correlations",
                    "seconds": "fit, processor s",
                },
                title="Accuracy or R² of models trained on draws; then distances and errors.",
            ),
        ),
    ),
    "digits_generation": Benchmark(
        "handwritten digits from their class",
        (
            _generation("digits_generation", {}),
            _generation("digits_generation_tuning", {"setting": "setting"}),
        ),
        {"digits_generation.png": "Generated digits of every class beside test rows."},
    ),
    "digits_adaptation": Benchmark(
        "a classifier carried over",
        (
            _digits("knn", "Accuracy of a nearest-neighbour classifier"),
            _digits("svc", "Accuracy of a support vector classifier"),
            _digits("knn_unseen", "Accuracy with source rows that no fit has seen"),
            Table(
                "digits_adaptation",
                _METHOD,
                {"processor_seconds": "fit, processor s"},
                _DIGITS_SHOWN,
                title="Time of a fit, over all pairs.",
            ),
        ),
    ),
    "domain_shift": Benchmark(
        "shifts and batch effects",
        (
            _shifted("knn", "Accuracy of a nearest-neighbour classifier"),
            _shifted("logistic", "Accuracy of a logistic regression"),
            Table(
                "domain_shift",
                {"case": "case"},
                {
                    "shift": "L1 change of the class proportions",
                    "seen": "seen, share of the runs",
                    "error": "L1 error of those estimated",
                },
                {"method": "DomainAdapter, short flow"},
                title="Class proportions, as found without labels of the target.",
            ),
            Table(
                "domain_shift",
                _METHOD,
                {"processor_seconds": "fit, processor s"},
                {"setting": ("", "default")},
                title="Time of a fit, over all cases.",
            ),
        ),
    ),
    "label_free": Benchmark(
        "choosing without target labels",
        (
            Table(
                "label_free",
                {"case": "case", "classifier": "classifier"},
                {"accuracy": "accuracy on the target"},
                across="method",
                title="Accuracy of every candidate.",
            ),
            Table(
                "label_free",
                {"case": "case", "classifier": "classifier"},
                {"neighbours": "neighbour score"},
                across="method",
                title="NeighborScorer, which sees no label of the target.",
            ),
        ),
    ),
    "sinkhorn_engine": Benchmark(
        "the transport engine",
        (
            _engine("cold", "seconds", "processor s"),
            _engine("warm", "seconds", "processor s"),
            _engine("cold", "velocity_error", "relative error"),
            _engine("cold", "peak_mib", "peak memory, MiB"),
            Table(
                "sinkhorn_engine",
                {"d": "d", "start": "start"},
                {"seconds": "processor s"},
                {"part": "exact"},
                across="name",
                title="Exact plans of 2048 by 2048 points: processor s.",
            ),
            Table(
                "sinkhorn_engine",
                {"d": "d"},
                {"seconds": "processor s"},
                {"part": "sliced"},
                across="name",
                title="Sliced velocities of 2048 points: processor s.",
            ),
        ),
    ),
    "svgd": Benchmark(
        "a step of Stein variational gradient descent",
        (
            Table(
                "svgd",
                {"n": "n", "d": "d"},
                {"fastest": "processor s"},
                across="name",
                title="Processor seconds of a step, in the fastest run.",
            ),
            Table(
                "svgd",
                {"n": "n", "d": "d"},
                {"error": "error"},
                across="name",
                title="Relative error of the step.",
            ),
        ),
    ),
    "svgd_recipe": Benchmark(
        "the default flow, part by part",
        (
            Table(
                "svgd_recipe",
                {"target": "target", "n": "particles", "setting": "setting"},
                _CLOUD | {"variance": "variance ratio", "converged": "converged, share"},
            ),
        ),
    ),
    "svgd_posteriors": Benchmark(
        "the sampler as users call it",
        (
            Table(
                "svgd_posteriors",
                {"target": "posterior", "method": "method"},
                _CLOUD | {"step": "step"},
                {"part": "posteriors"},
                title="Reference posteriors, 500 particles.",
            ),
            Table(
                "svgd_posteriors",
                {"method": "kernel", "target": "law", "n": "particles"},
                {"variance": "variance"},
                {"part": "gaussians"},
                across="d",
                title="Mean variance of the particles, by dimension; 1 is right.",
            ),
            Table(
                "svgd_posteriors",
                {"target": "data", "method": "model"},
                {
                    "accuracy": "accuracy",
                    "log_loss": "log loss",
                    "rmse": "RMSE",
                    "log_density": "mean log density",
                    "coverage": "coverage of 90% intervals",
                    "seconds": "processor s",
                },
                {"part": "pipelines"},
                title="In pipelines.",
            ),
        ),
    ),
    "torus": Benchmark(
        "rates on the torus",
        (
            Table(
                "torus",
                {"target": "target", "d": "d", "s": "s", "r": "r", "amplitude": "amplitude"},
                {"l2_predicted": "L2, predicted", "l2_slope": "L2", "kl_slope": "KL"},
                {"part": "algebraic"},
                title="Slopes against the logarithm of time.",
            ),
            Table(
                "torus",
                {"target": "target"},
                {"l2_slope": "rate of L2", "kl_slope": "rate of KL"},
                {"part": "exponential"},
                title="Exponential rates for s = 1.",
            ),
            Table(
                "torus",
                {"dtype": "precision"},
                {
                    "exact": "exact on a line, N = 100,000",
                    "sort": "a sort of as many",
                    "exact, few": "exact on a line, N = 10,000",
                    "dense, few": "all pairs of as many",
                    "plane": "plane, N = 10,000",
                    "products": "the matrix products in it",
                },
                {"part": "speed"},
                title="Processor milliseconds of the velocity.",
            ),
        ),
    ),
    "gwg": Benchmark(
        "the inner step of the learnt flow",
        (
            Table(
                "gwg",
                {"width": "width", "d": "d"},
                {
                    "exact, score cached": "exact, score cached",
                    "published style": "published style",
                    "probe, score cached": "probe, score cached",
                },
                {"part": "speed"},
                title="Processor milliseconds of an inner step.",
            ),
            Table(
                "gwg",
                {"width": "width", "d": "d"},
                {"noise_start": "at the start", "noise_trained": "after 100 steps"},
                {"part": "noise"},
                title="Variance that a probe adds, over the squared gradient.",
            ),
            Table(
                "gwg",
                {"name": "network of the flow", "dimension": "dimension"},
                {
                    "step_ms": "step, ms",
                    "gradient_ms": "gradient of the target, ms",
                    "share": "share",
                },
                {"part": "network"},
                title="A step with a Bayesian neural network.",
            ),
        ),
    ),
    "gwg_toys": Benchmark(
        "does an exponent other than two help?",
        (
            Table(
                "gwg_toys",
                {"target": "target", "case": "case", "method": "method"},
                {
                    "w2": "W2",
                    "kl": "KL(cloud, target)",
                    "kl_back": "KL(target, cloud)",
                    "sd": "sd ratio",
                    "exponent": "p at the end",
                    "evaluations": "evaluations",
                    "seconds": "processor s",
                },
            ),
        ),
        {
            "gwg_toys_mixture.png": "Particles on the mixture of ten modes.",
            "gwg_toys_gamma.png": "Particles on the monomial gamma law.",
        },
    ),
    "gwg_posteriors": Benchmark(
        "both samplers on posteriors",
        (
            Table(
                "gwg_posteriors",
                {"target": "posterior", "n": "particles", "method": "method"},
                _CLOUD | {"converged": "converged, share"},
            ),
        ),
    ),
    "uci": Benchmark(
        "Bayesian neural networks",
        (
            Table(
                "uci",
                {"data": "data", "method": "method"},
                {
                    "rmse": "RMSE",
                    "log_likelihood": "log likelihood",
                    "raw_log_likelihood": "without the factor",
                    "factor": "noise factor",
                    "seconds": "processor s",
                },
            ),
        ),
    ),
    "wsfn": Benchmark(
        "saddles and minima",
        (
            Table(
                "wsfn",
                {"beta": "beta", "curvature": "curvature"},
                {"predicted": "predicted factor", "measured": "measured factor"},
                {"part": "rate"},
                title="Factor by which the error falls in a step.",
            ),
            Table(
                "wsfn",
                _METHOD,
                {"steps": "steps"},
                {"part": "escape", "status": "escaped"},
                across="curvature",
                title="Steps to leave a saddle, by the size of its negative curvature.",
            ),
            Table(
                "wsfn",
                {"problem": "problem", "method": "method"},
                {
                    "reached": "reached, share",
                    "gradients_to_target": "gradients, where reached",
                    "products_to_target": "Hessian products, where reached",
                    "seconds_to_target": "processor s, where reached",
                },
                {"part": "minimisation"},
                title="Three problems, to a given value.",
            ),
        ),
        {
            "wsfn_escape.png": "Steps to leave a saddle against its curvature.",
            "wsfn_distance.png": "Distance to a minimiser, step by step.",
        },
    ),
    "wsfn_quantiser": Benchmark(
        "few points that stand for many",
        (
            Table(
                "wsfn_quantiser",
                {"data": "rows", "method": "method"},
                {
                    "w2": "W2 to the rows",
                    "mmd": "MMD x 1000",
                    "energy": "energy distance x 1000",
                    "seconds": "processor s",
                },
            ),
        ),
        {"wsfn_quantiser.png": "Fifty points for thousands of rows."},
    ),
    "wsfn_scale": Benchmark(
        "large clouds",
        (
            Table(
                "wsfn_scale",
                {"n": "N", "d": "d", "start": "start"},
                {
                    "dense_seconds": "dense, processor s",
                    "seconds_1e-06": "tol 1e-6, processor s",
                    "products_1e-06": "products",
                    "error_1e-06": "error",
                },
                {"part": "dense"},
                title="A direction, against the dense decomposition.",
            ),
            Table(
                "wsfn_scale",
                {"n": "N", "d": "d", "start": "start", "threads": "threads"},
                {
                    "products": "products",
                    "seconds": "processor s",
                    "autograd_seconds": "by autograd of the value",
                    "textbook_seconds": "by autograd of the formula",
                },
                {"part": "autograd"},
                title="A direction, against Hessian products by automatic differentiation.",
            ),
            Table(
                "wsfn_scale",
                {"n": "N", "d": "d"},
                {
                    "products": "products",
                    "seconds": "processor s",
                    "peak_mib": "peak memory, MiB",
                    "autograd_mib": "by autograd, MiB",
                },
                {"part": "memory"},
                title="Memory of a direction.",
            ),
        ),
    ),
    "mean_field": Benchmark(
        "networks of neurons as particles",
        (
            Table(
                "mean_field",
                {"data": "data", "method": "method"},
                {
                    "score": "R² or accuracy",
                    "train_score": "on the training rows",
                    "processor_seconds": "fit, processor s",
                },
            ),
        ),
    ),
}
