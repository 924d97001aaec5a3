"""A clean simulated day: how often the checks cry wolf, held against the rate that they were calibrated for."""
