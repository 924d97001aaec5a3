"""Quantiles against published tables."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.checks.quantiles import chi_square_cdf, chi_square_quantile, poisson_upper, tolerance_widening


@pytest.mark.parametrize(
    ("p", "dof", "value"),
    [
        (0.95, 1, 3.841459),
        (0.05, 9, 3.325113),
        (0.99, 3, 11.344867),
        (0.5, 100, 99.334129),
        (0.999, 10, 29.588298),
        (0.05, 1000, 927.594363),
    ],
)
def test_chi_square_quantiles_are_those_of_the_table(p: float, dof: int, value: float) -> None:
    """NIST/SEMATECH e-Handbook, table 1.3.6.7.4, and R's qchisq for more digits."""
    assert chi_square_quantile(p, dof) == pytest.approx(value, rel=1e-6)


@given(p=st.floats(0.001, 0.999), dof=st.floats(0.5, 500.0))
def test_quantile_and_distribution_are_inverse(p: float, dof: float) -> None:
    """Also between whole degrees of freedom."""
    assert chi_square_cdf(chi_square_quantile(p, dof), dof) == pytest.approx(p, abs=1e-9)


@pytest.mark.parametrize(("count", "bound"), [(0, 2.9957), (1, 4.7439), (3, 7.7537), (10, 16.9622)])
def test_poisson_bounds_are_garwood_s(count: int, bound: float) -> None:
    """One-sided 95 %: no alarm seen still allows three."""
    assert poisson_upper(count) == pytest.approx(bound, abs=1e-4)
    below = sum(math.exp(-bound) * bound**n / math.factorial(n) for n in range(count + 1))
    assert below == pytest.approx(0.05, abs=1e-4)


@pytest.mark.parametrize(("samples", "factor"), [(5, 5.079), (10, 3.379), (30, 2.549), (100, 2.233)])
def test_widening_is_the_tolerance_factor_over_the_quantile(samples: int, factor: float) -> None:
    """Two-sided 95 %/95 % factors of ISO 16269-6 table E.1, to 1.5 %."""
    assert tolerance_widening(samples) * 1.959964 == pytest.approx(factor, rel=0.015)


def test_widening_shrinks_to_nothing() -> None:
    """Less is never less uncertain; fewer than two samples count as two."""
    steps = [tolerance_widening(n) for n in (0.0, 2.0, 4.0, 40.0, 400.0, 4e4)]
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] == pytest.approx(1.0, abs=0.01)
