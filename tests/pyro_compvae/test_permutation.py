"""Log-permanents against brute force over all permutations."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from torch import Tensor

from pyro_compvae.permutation import all_permutations, log_permanent


def brute_force(log_matrix: Tensor) -> Tensor:
    """log Σ_π exp Σ_j A_{j π(j)} of one matrix (K, K), with Python's own sums."""
    K = len(log_matrix)
    entries = log_matrix.tolist()
    terms = [math.fsum(entries[j][order[j]] for j in range(K)) for order in permutations(range(K))]
    largest = max(terms)
    if largest == -math.inf:
        return torch.tensor(-math.inf, dtype=torch.float64)
    total = largest + math.log(math.fsum(math.exp(term - largest) for term in terms))
    return torch.tensor(total, dtype=torch.float64)


def random(K: int) -> Tensor:
    return torch.randn(K, K, dtype=torch.float64) * 2


def nearly_singular(K: int) -> Tensor:
    """A matrix whose rows differ by 1e-9, for which a formula with signs (Ryser's) would cancel."""
    return torch.randn(K, dtype=torch.float64) + 1e-9 * torch.randn(K, K, dtype=torch.float64)


def enormous_range(K: int) -> Tensor:
    return -1e4 * torch.rand(K, K, dtype=torch.float64)


def rows_of_different_size(K: int) -> Tensor:
    """A matrix like that of a guide's slots, one of which is very certain."""
    return torch.randn(K, K, dtype=torch.float64) + torch.linspace(-1e4, 300, K, dtype=torch.float64).unsqueeze(-1)


@pytest.mark.parametrize("K", range(1, 8))
@pytest.mark.parametrize("make", [random, nearly_singular, enormous_range, rows_of_different_size])
def test_equals_the_sum_over_all_permutations(make: Callable[[int], Tensor], K: int) -> None:
    matrix = make(K)
    torch.testing.assert_close(log_permanent(matrix), brute_force(matrix), rtol=1e-10, atol=1e-10)


def test_is_not_a_determinant_nor_blind_to_which_column_is_whose() -> None:
    """A 2 × 2 matrix by hand: perm [[1, 2], [3, 5]] = 5 + 6."""
    matrix = torch.tensor([[1.0, 2.0], [3.0, 5.0]], dtype=torch.float64)
    torch.testing.assert_close(log_permanent(matrix.log()).exp(), torch.tensor(11.0, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entries_of_zero(dtype: torch.dtype) -> None:
    """With half of the entries zero the value is right, and so is the gradient, which is zero at these entries."""
    K = 5
    matrix = torch.randn(K, K, dtype=dtype)
    zero = torch.rand(K, K) < 0.5
    zero.fill_diagonal_(False)
    assert 5 < zero.sum() < 15, "the premise"
    matrix[zero] = -math.inf
    expected = brute_force(matrix.double())
    matrix.requires_grad_()
    value = log_permanent(matrix)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5 if dtype == torch.float32 else 1e-10, atol=1e-6)
    (gradient,) = torch.autograd.grad(value, matrix)
    assert gradient.isfinite().all()
    assert (gradient[zero] == 0).all()
    # The gradient at (j, k) is the share of the permutations that match j with k, so that rows and columns sum to 1.
    torch.testing.assert_close(gradient.sum(0), torch.ones(K, dtype=dtype))
    torch.testing.assert_close(gradient.sum(1), torch.ones(K, dtype=dtype))


@pytest.mark.parametrize("K", [1, 2, 4])
@pytest.mark.parametrize("what", ["everything", "a row", "a column"])
def test_a_permanent_of_zero_is_minus_infinity_with_a_finite_gradient(K: int, what: str) -> None:
    zero = torch.zeros(K, K, dtype=torch.bool)
    zero[{"everything": (slice(None),), "a row": (-1,), "a column": (slice(None), 0)}[what]] = True
    matrix = torch.randn(K, K).masked_fill(zero, -math.inf).requires_grad_()
    value = log_permanent(matrix)
    assert value == -math.inf
    value.backward()
    assert matrix.grad.isfinite().all()


def test_no_matching_though_no_row_or_column_is_empty() -> None:
    """Two rows have only one column between them."""
    matrix = torch.randn(3, 3)
    matrix[:2, 1:] = -math.inf
    assert log_permanent(matrix) == -math.inf


def test_nan_stays_nan() -> None:
    matrices = torch.zeros(2, 3, 3)
    matrices[0, 1, 2] = math.nan
    assert log_permanent(matrices).isnan().tolist() == [True, False]


@pytest.mark.parametrize("K", [1, 2, 4, 6])
def test_gradient_against_finite_differences(K: int) -> None:
    assert torch.autograd.gradcheck(log_permanent, random(K).requires_grad_())
    assert torch.autograd.gradcheck(log_permanent, nearly_singular(K).requires_grad_())


def test_a_call_in_inference_mode_leaves_later_gradients_possible() -> None:
    """Index tables are kept between calls; K = 9 occurs in no other test."""
    with torch.inference_mode():
        log_permanent(torch.zeros(9, 9))
    matrix = torch.zeros(9, 9, requires_grad=True)
    log_permanent(matrix).backward()
    torch.testing.assert_close(matrix.grad, torch.full((9, 9), 1 / 9))


@pytest.mark.parametrize("make", [random, nearly_singular, enormous_range, rows_of_different_size])
def test_float32_is_as_good_as_its_rounding(make: Callable[[int], Tensor]) -> None:
    matrix = make(7).float()
    single, double = log_permanent(matrix), log_permanent(matrix.double())
    assert single.dtype == torch.float32
    # These are sums of seven terms, each rounded to 2^-24 of itself.
    torch.testing.assert_close(single.double(), double, rtol=7 * 2**-24, atol=1e-5)


def test_batches_are_matrices_one_by_one() -> None:
    matrices = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    batched = log_permanent(matrices)
    assert batched.shape == (3, 2)
    for i in range(3):
        for j in range(2):
            torch.testing.assert_close(batched[i, j], brute_force(matrices[i, j]), rtol=1e-10, atol=1e-10)
    assert log_permanent(torch.zeros(0, 4, 4)).shape == (0,)


def test_the_order_of_rows_and_columns_does_not_matter_and_factors_come_out() -> None:
    matrix, rows, columns = random(6), torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    value = log_permanent(matrix)
    torch.testing.assert_close(log_permanent(matrix[[3, 1, 5, 0, 2, 4]][:, [2, 0, 1, 5, 4, 3]]), value)
    torch.testing.assert_close(log_permanent(matrix.T), value)
    scaled = log_permanent(matrix + rows.unsqueeze(-1) + columns)
    torch.testing.assert_close(scaled, value + rows.sum() + columns.sum())


def test_sixteen_slots() -> None:
    """All ones give 16!, blocks of 7 and 9 the product of their permanents, and a diagonal that of its entries."""
    ones = torch.zeros(16, 16, dtype=torch.float64)
    torch.testing.assert_close(float(log_permanent(ones)), math.lgamma(17), rtol=1e-12, atol=0)
    blocks = torch.full((16, 16), -math.inf, dtype=torch.float64)
    blocks[:7, :7], blocks[7:, 7:] = random(7), 0.5
    expected = brute_force(blocks[:7, :7]) + math.lgamma(10) + 9 * 0.5
    order = torch.randperm(16)
    torch.testing.assert_close(log_permanent(blocks[order]), expected, rtol=1e-10, atol=0)
    entries = torch.randn(16, dtype=torch.float64)
    diagonal = torch.full((16, 16), -math.inf, dtype=torch.float64)
    diagonal[range(16), range(16)] = entries
    torch.testing.assert_close(log_permanent(diagonal[order]), entries.sum(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 4), r"log_matrix: expected square matrices \(\.\.\., K, K\), got \(3, 4\)"),
        ((4,), r"log_matrix: expected square matrices \(\.\.\., K, K\), got \(4,\)"),
        ((2, 0, 0), "num_slots: expected 1 to 16 slots, .* got 0"),
        ((17, 17), r"num_slots: expected 1 to 16 slots, .* got 17\. .* load_run\(\.\.\., num_slots=16\)"),
    ],
)
def test_bad_shapes_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        log_permanent(torch.zeros(shape))


@pytest.mark.parametrize("K", [1, 2, 5])
def test_all_permutations(K: int) -> None:
    orders = all_permutations(K)
    assert orders.shape == (math.factorial(K), K)
    assert orders[0].tolist() == list(range(K))
    assert len({tuple(order) for order in orders.tolist()}) == math.factorial(K)
    assert (orders.sort(-1).values == torch.arange(K)).all()
