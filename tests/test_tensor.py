"""The border between numpy and torch: copies, types, devices, and seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skwgf import _tensor
from skwgf._tensor import (
    argmax_rows,
    best_float,
    derive_seed,
    draw_seed,
    is_tensor,
    make_generator,
    resolve_device,
    resolve_dtype,
    tensor_to_array,
    to_numpy,
    to_tensor,
)

CPU = torch.device("cpu")
MPS = torch.device("mps")


@pytest.mark.parametrize("device", [None, "cpu", CPU])
def test_cpu(device):
    assert resolve_device(device) == CPU


def test_auto_takes_the_first_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == CPU
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == MPS
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")


@pytest.mark.parametrize("device", ["no_such_device", "cpu:banana", "xpu:99", "meta"])
def test_unusable_device_says_so_and_what_to_do(device):
    # torch itself raises RuntimeError, AssertionError or NotImplementedError, or (meta) nothing.
    with pytest.raises(ValueError, match=f"device='{device}'.*None for the CPU or 'auto'"):
        resolve_device(device)


@pytest.mark.parametrize(
    ("dtype", "follow", "expected"),
    [
        (None, np.float32, torch.float32),
        (None, np.float64, torch.float64),
        (None, np.float16, torch.float32),
        (None, np.int64, torch.float64),
        (None, np.bool_, torch.float64),
        ("float32", np.float64, torch.float32),
        ("float64", np.float32, torch.float64),
        (np.float32, np.float64, torch.float32),
        (np.dtype("float64"), np.float32, torch.float64),
    ],
)
def test_resolve_dtype(dtype, follow, expected):
    assert resolve_dtype(dtype, follow, CPU) == expected
    assert resolve_dtype(dtype, follow, MPS) == torch.float32


def test_best_float():
    assert best_float(CPU) == torch.float64
    assert best_float(torch.device("cuda")) == torch.float64
    assert best_float(MPS) == torch.float32


def test_is_tensor():
    assert is_tensor(torch.zeros(2))
    assert is_tensor(torch.nn.Parameter(torch.zeros(2)))
    assert not is_tensor(np.zeros(2))
    assert not is_tensor([0.0])


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.arange(3, dtype=np.float64), torch.float64),
        (np.arange(3, dtype=np.float32), torch.float32),
        (np.arange(3, dtype=np.float16), torch.float64),
        (np.arange(3, dtype=np.int64), torch.int64),
        (np.arange(3, dtype=np.int32), torch.int32),
        (np.arange(3, dtype=np.uint8), torch.uint8),
        (np.array([0, 1, 2], dtype=object), torch.float64),
        ([0, 1, 2], torch.int64),
        ([0.0, 1.0, 2.0], torch.float64),
        (range(3), torch.int64),
    ],
)
def test_to_tensor_keeps_values_and_precision(array, expected):
    tensor = to_tensor(array)
    assert tensor.dtype == expected
    assert tensor.tolist() == [0, 1, 2]
    assert to_tensor(array, dtype=torch.float32).dtype == torch.float32


def test_to_tensor_of_booleans():
    assert to_tensor(np.array([True, False])).tolist() == [True, False]


def test_to_tensor_shares_no_memory_with_an_array():
    # Bug caught: torch.from_numpy, through which a fit would change the user's data.
    array = np.arange(4.0)
    tensor = to_tensor(array)
    tensor += 1
    array *= 10
    assert array.tolist() == [0, 10, 20, 30]
    assert tensor.tolist() == [1, 2, 3, 4]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[::-1],  # negative strides
        lambda a: a[:, ::2],
        lambda a: a.T,
        lambda a: np.asfortranarray(a),
        lambda a: np.broadcast_to(a[:1], (5, 4)),  # read-only, zero strides
    ],
)
def test_to_tensor_of_views(view):
    array = view(np.arange(12.0).reshape(3, 4))
    array.flags.writeable = False
    tensor = to_tensor(array)
    assert tensor.tolist() == array.tolist()
    assert tensor.is_contiguous()
    tensor.zero_()
    assert array.any()


@pytest.mark.filterwarnings("error")
def test_to_tensor_of_a_memory_map(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(3.0))
    tensor = to_tensor(np.load(tmp_path / "x.npy", mmap_mode="r"))
    tensor += 1
    assert np.load(tmp_path / "x.npy").tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float64])
def test_to_tensor_of_a_tensor_is_a_copy_without_graph(dtype):
    x = torch.arange(3.0, requires_grad=True)
    tensor = to_tensor(2 * x, dtype=dtype)
    assert not tensor.requires_grad
    assert tensor.dtype == (dtype or torch.float32)
    own = to_tensor(x, dtype=dtype, device=CPU)
    own += 1
    assert x.tolist() == [0, 1, 2]


def test_to_tensor_refuses_words():
    with pytest.raises(ValueError, match="could not convert"):
        to_tensor(np.array(["a", "b"]))


def test_to_numpy_is_a_copy():
    tensor = torch.arange(3.0)
    array = to_numpy(tensor)
    array += 1
    assert tensor.tolist() == [0, 1, 2]
    assert array.flags.writeable
    assert array.flags.owndata


@pytest.mark.filterwarnings("error")
def test_to_numpy_of_a_tensor_with_gradient():
    x = torch.arange(3.0, requires_grad=True)
    assert to_numpy(x * 2).tolist() == [0, 2, 4]


def test_to_numpy_of_a_transposed_tensor():
    assert to_numpy(torch.arange(6.0).reshape(2, 3).T).tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize("dtype", [None, "float32", np.float64, np.int64])
def test_to_numpy_dtype(dtype):
    expected = np.dtype(np.float32 if dtype is None else dtype)
    assert to_numpy(torch.arange(3, dtype=torch.float32), dtype).dtype == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_])
def test_there_and_back(dtype):
    array = np.array([[0, 1], [1, 1]], dtype=dtype)
    back = to_numpy(to_tensor(array))
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)


def test_tensor_to_array_passes_everything_else_by():
    frame = [[1.0], [2.0]]
    assert tensor_to_array(frame) is frame
    assert tensor_to_array(None) is None
    array = np.zeros(3)
    assert tensor_to_array(array) is array
    converted = tensor_to_array(torch.ones(2, requires_grad=True))
    assert isinstance(converted, np.ndarray)
    assert converted.tolist() == [1, 1]


@pytest.mark.parametrize("random_state", [0, 7, np.int64(7)])
def test_seed_of_an_integer_is_reproducible(random_state):
    seed = draw_seed(random_state)
    assert seed == draw_seed(int(random_state))
    assert isinstance(seed, int)
    assert 0 <= seed < 2**31


def test_different_integers_give_different_seeds():
    assert len({draw_seed(k) for k in range(200)}) == 200


def test_random_state_moves_on():
    state = np.random.RandomState(0)
    first, second = draw_seed(state), draw_seed(state)
    assert first != second
    assert first == draw_seed(np.random.RandomState(0))


def test_none_takes_fresh_entropy():
    # 100 draws of 31 bits coincide with probability 2e-6.
    seeds = [draw_seed(None) for _ in range(100)]
    assert len(set(seeds)) == 100
    assert all(isinstance(seed, int) and 0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize("random_state", [None, 0, "RandomState"])
def test_seeds_leave_the_global_states_alone(random_state):
    # Bug caught: check_random_state(None), which is numpy's global generator.
    if random_state == "RandomState":
        random_state = np.random.RandomState(1)
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    make_generator(derive_seed(draw_seed(random_state), 1)).seed()
    name_after, keys_after, *rest_after = np.random.get_state()  # noqa: NPY002
    assert (name, rest) == (name_after, rest_after)
    assert np.array_equal(keys, keys_after)
    assert torch.equal(torch_state, torch.get_rng_state())


def test_none_does_not_read_the_global_state():
    # Two fits after the same np.random.seed must differ: the global state is not ours to read.
    state = np.random.get_state()  # noqa: NPY002
    try:
        np.random.seed(0)  # noqa: NPY002
        first = draw_seed(None)
        np.random.seed(0)  # noqa: NPY002
        assert draw_seed(None) != first
    finally:
        np.random.set_state(state)  # noqa: NPY002


def test_bad_random_state_is_refused():
    with pytest.raises(ValueError, match="seed"):
        draw_seed("zero")


def test_streams_of_a_seed_differ():
    seeds = {derive_seed(seed, stream) for seed in range(50) for stream in range(20)}
    assert len(seeds) == 1000  # 1000 draws of 31 bits: a coincidence has probability 2e-4
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert derive_seed(3, 4) == derive_seed(3, 4)
    # Bug caught: seed + stream, by which the streams of neighbouring fits coincide.
    assert derive_seed(3, 4) != derive_seed(4, 3)


def test_streams_are_uncorrelated():
    # Correlation of 10000 draws: standard error .01.
    one, other = (
        torch.randn(10_000, generator=make_generator(derive_seed(0, stream))) for stream in (0, 1)
    )
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.04


def test_generator_is_reproducible():
    one, other = (torch.randn(5, generator=make_generator(12)) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, torch.randn(5, generator=make_generator(13)))
    assert make_generator(12).initial_seed() == 12
    assert make_generator(12).device == CPU
    assert make_generator(12, CPU).device == CPU


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_argmax_rows(dtype):
    scores = torch.randn(200, 30, generator=make_generator(0), dtype=dtype)
    index = argmax_rows(scores)
    assert index.dtype == torch.int64
    assert torch.equal(index, scores.argmax(1))
    assert torch.equal(argmax_rows(scores.requires_grad_()), index)
    assert torch.equal(argmax_rows(scores.detach().T.contiguous().T), index)


def test_argmax_rows_takes_the_first_of_equals():
    assert argmax_rows(torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 0.0]])).tolist() == [1, 0]


def test_argmax_rows_elsewhere_than_on_the_cpu():
    # The shape alone, on torch's device without data: numpy must not be asked there.
    index = argmax_rows(torch.empty(5, 3, device="meta"))
    assert index.shape == (5,)
    assert index.device.type == "meta"


def test_every_function_is_tested_here():
    public = {
        name
        for name, value in vars(_tensor).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == _tensor.__name__
    }
    assert public <= set(globals())
