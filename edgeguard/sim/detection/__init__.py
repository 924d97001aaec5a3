"""The proof of detection: attacks into any recording, and what the checks made of them, counted with intervals."""
