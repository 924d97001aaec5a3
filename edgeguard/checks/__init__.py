"""Consistency checks: one class per check, each turning a SyncedSet into a CheckResult."""
