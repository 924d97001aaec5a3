"""Adversarial inputs (M0015) and drift (M0008): scores calibrated on the user's own clean frames."""
