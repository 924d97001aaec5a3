"""A deterministic street, the sensors that see it, and the attacks on them; the same interface as the hardware."""
