"""Hardening of the process itself: locked memory and, later, the process seal."""
