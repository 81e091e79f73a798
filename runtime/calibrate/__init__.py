"""Calibration: run real blocks on this machine and fit the constants that predictions use."""
