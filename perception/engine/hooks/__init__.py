"""Hooks of the runner: one feature of a run each."""
