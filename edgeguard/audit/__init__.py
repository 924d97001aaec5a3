"""Tamper-evident telemetry log: hash-chained records in append-only segments (ATLAS AML.M0024)."""
