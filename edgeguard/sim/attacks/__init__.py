"""Attacks and faults on sensor values; each knows when it acts and says so as a `Truth`."""
