"""Checks of a machine, an installation and a model, each a function from facts to a finding."""
