"""Pure functions on arrays, compiled by numba, each with a NumPy twin in `_reference` that serves as test oracle."""
