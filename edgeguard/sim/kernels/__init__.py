"""Ray casting and shading compiled by numba; each pure function on arrays has a NumPy twin in `_reference`."""
