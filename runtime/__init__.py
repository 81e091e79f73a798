"""Runs: reads the scheduler's documents and moves hidden states."""
