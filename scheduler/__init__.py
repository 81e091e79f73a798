"""Decides: pure planning, without MNN, NumPy or I/O beyond probe and profiles."""
