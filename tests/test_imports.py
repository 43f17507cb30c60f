"""The layers of the package, its border to numpy, and what importing it does to the rest."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import skwgf

ROOT = Path(skwgf.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

# Who may import whom, besides modules of the same layer. A new module needs its line here.
BELOW = {
    "_tensor": set(),
    "datasets": {"_tensor"},
    "kernels": {"_tensor"},
    "nn": {"_tensor"},
    "transport": {"_tensor"},
    "targets": {"_tensor"},
    "functionals": {"_tensor"},
    "metrics": {"_tensor", "transport", "kernels", "targets"},
}
ENGINE = {"functionals", "targets", "kernels", "transport", "nn"}
for layer in ENGINE:
    BELOW[layer] |= ENGINE - {layer}
for layer in tuple(BELOW):
    BELOW[layer] |= {"_warnings"}
BELOW["_warnings"] = set()
BELOW["_domains"] = {"_tensor"}
BELOW["metrics"] |= {"_domains"}
BELOW["flows"] = ENGINE | {"_tensor", "_warnings"}
BELOW["_threads"] = set()
BELOW["persistence"] = BELOW["flows"] | {"flows"}
BELOW["base"] = BELOW["persistence"] | {"persistence", "_threads"}
BELOW["estimators"] = BELOW["base"] | {"base", "metrics", "_domains"}
BELOW["inspection"] = BELOW["estimators"] | {"estimators"}
BELOW["pipeline"] = BELOW["estimators"] | {"estimators"}

# Only where they are used: none is needed to import the package.
OPTIONAL = {"ot", "matplotlib", "mlxtend", "h5py", "pandas", "polars", "rich", "dask", "geomloss"}


def layer_of(path: Path) -> str:
    """Return the name of the subpackage or module of `skwgf` that a file belongs to."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imports(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Yield the dotted names that are imported, and whether inside a function."""

    def visit(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            yield from ((f"{node.module}.{alias.name}", inside) for alias in node.names)
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(tree, False)


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` for a chain of attributes, and "" where it starts from something else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        start = dotted(node.value)
        return f"{start}.{node.attr}" if start else ""
    return ""


def conversions(tree: ast.AST) -> list[str]:
    """Return the places where numpy becomes torch or torch becomes numpy."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        from_arrays = any(
            dotted(part).split(".")[0] in ("np", "numpy")
            or dotted(part).split(".")[-1] == "to_numpy"
            for argument in node.args
            for part in ast.walk(argument)
        )
        if (
            name in ("torch.from_numpy", "torch.as_tensor", "torch.asarray", "torch.from_dlpack")
            or method in ("numpy", "__array__")
            or (name in ("torch.tensor", "torch.Tensor", "torch.FloatTensor") and from_arrays)
        ):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


# Draws that read torch's global generator unless they are handed one.
DRAWS = {"rand", "randn", "randint", "randperm", "normal", "multinomial", "bernoulli", "poisson"}
DRAWS_LIKE = {"rand_like", "randn_like", "randint_like"}  # take no generator at all
FILLS = {"uniform_", "normal_", "bernoulli_", "exponential_", "random_", "cauchy_", "geometric_"}
NUMPY_RANDOM = {"RandomState", "Generator", "SeedSequence", "default_rng", "PCG64"}


def global_randomness(tree: ast.AST) -> list[str]:
    """Return the places that read, write or seed a global random state."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = dotted(node)
            if name.startswith(("np.random.", "numpy.random.")):
                bad = name.split(".")[2] not in NUMPY_RANDOM
            else:
                bad = name in ("torch.manual_seed", "torch.seed", "torch.set_rng_state") or (
                    name.startswith(("torch.random.", "torch.cuda.manual", "random.seed"))
                )
            if bad:
                found.append(f"line {node.lineno}: {name}")
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            handed = any(keyword.arg == "generator" for keyword in node.keywords)
            of_torch = name.startswith("torch.") and method in DRAWS
            if (
                ((of_torch or method in FILLS) and not handed)
                or (name.startswith("torch.") and method in DRAWS_LIKE)
                or name in ("nn.Linear", "torch.nn.Linear")  # draws its weights from it
            ):
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


every_module = pytest.mark.parametrize("path", MODULES, ids=label)


def test_modules_are_found():
    assert {"_tensor", "flows", "transport", "nn", "estimators"} <= {*map(layer_of, MODULES)}


@every_module
def test_imports_point_one_way(path):
    layer = layer_of(path)
    if layer == "":
        return  # skwgf/__init__.py gathers the public names
    assert layer in BELOW, f"say in this file which layer skwgf.{layer} is"
    for name, _ in imports(parse(path)):
        if name.split(".")[0] != "skwgf":
            continue
        target = name.split(".")[1]
        assert target == layer or target in BELOW[layer], (
            f"{label(path)} imports {name}: {layer} may import {sorted(BELOW[layer])}"
        )


@every_module
def test_only_the_border_converts(path):
    if layer_of(path) != "_tensor":
        assert conversions(parse(path)) == []


@every_module
def test_optional_libraries_are_imported_where_they_are_used(path):
    for name, inside in imports(parse(path)):
        library = name.split(".")[0]
        if library in OPTIONAL:
            assert inside, f"{label(path)} imports {name} at its top"
        if library == "ot":
            assert layer_of(path) == "transport"


@every_module
def test_no_global_random_state(path):
    assert global_randomness(parse(path)) == []


def test_the_checks_see_what_they_look_for():
    # A check that finds nothing anywhere proves nothing.
    source = """
import ot
from skwgf.flows import euler
def f():
    from matplotlib import pyplot
    def g():
        import h5py
"""
    assert list(imports(ast.parse(source))) == [
        ("ot", False),
        ("skwgf.flows.euler", False),
        ("matplotlib.pyplot", True),
        ("h5py", True),
    ]
    for code in (
        "torch.from_numpy(a)",
        "torch.as_tensor(a)",
        "x.numpy()",
        "x.detach().cpu().numpy(force=True)",
        "torch.tensor(np.asarray(a))",
        "torch.tensor([np.pi], dtype=torch.float64)",
        "torch.tensor(to_numpy(x))",
    ):
        assert len(conversions(ast.parse(code))) == 1, code
    for code in ("torch.tensor([1.0, 2.0])", "to_numpy(x)", "np.asarray(a)", "torch.zeros(3)"):
        assert conversions(ast.parse(code)) == [], code
    for code in (
        "torch.manual_seed(0)",
        "np.random.seed(0)",
        "np.random.rand(3)",
        "torch.randn(3)",
        "torch.rand_like(x)",
        "x.normal_()",
        "nn.Linear(2, 3)",
        "torch.random.fork_rng()",
    ):
        assert len(global_randomness(ast.parse(code))) == 1, code
    for code in (
        "torch.randn(3, generator=g)",
        "np.random.default_rng(0)",
        "np.random.RandomState(0)",
        "x.uniform_(-1, 1, generator=g)",
        "skip_init(nn.Linear, 2, 3)",
    ):
        assert global_randomness(ast.parse(code)) == [], code


def run(code: str) -> dict:
    """Run code in a fresh interpreter and return the dictionary `answer` it leaves."""
    script = f"import json\n{code}\nprint(json.dumps(answer))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")  # no warning, and nothing printed
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def imported():
    """What importing the package does, after its own foundations have been imported."""
    return run(
        """
import sys
import numpy, scipy, scipy.stats, sklearn, sklearn.callback, sklearn.neighbors, torch
import torch.optim.swa_utils, random
numpy_state, torch_state = numpy.random.get_state(), torch.get_rng_state()
python_state = random.getstate()
config, precision = sklearn.get_config(), torch.get_default_dtype()
threads, modes = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
before = {name.split('.')[0] for name in sys.modules}
import skwgf
after = numpy.random.get_state()
answer = {
    'new': sorted({name.split('.')[0] for name in sys.modules} - before),
    'all': sorted({name.split('.')[0] for name in sys.modules}),
    'numpy': all(numpy.array_equal(a, b) for a, b in zip(numpy_state, after)),
    'torch': torch.equal(torch_state, torch.get_rng_state()),
    'python': python_state == random.getstate(),
    'config': config == sklearn.get_config(),
    'precision': precision == torch.get_default_dtype(),
    'threads': threads == torch.get_num_threads(),
    'modes': modes == torch.are_deterministic_algorithms_enabled(),
}
"""
    )


@pytest.mark.parametrize("library", sorted(OPTIONAL))
def test_import_loads_no_optional_library(imported, library):
    # scikit-learn itself loads pandas where it is installed, and rich with its callbacks: what
    # counts is what comes on top.
    assert library not in imported["new"]


@pytest.mark.parametrize("library", sorted(OPTIONAL - {"pandas", "rich"}))
def test_nothing_below_loads_it_either(imported, library):
    # No detour through torch, scipy or scikit-learn, which is where the time of an import goes.
    assert library not in imported["all"]


@pytest.mark.parametrize("what", ["numpy", "torch", "python"])
def test_import_leaves_the_random_states_alone(imported, what):
    assert imported[what]


@pytest.mark.parametrize("what", ["config", "precision", "threads", "modes"])
def test_import_changes_no_setting(imported, what):
    # Metadata routing, default precision, threads, deterministic algorithms.
    assert imported[what]
