"""Pairing of streams with ticks, and a reason for every sample that was dropped. `synchronizer` has the one class."""
