"""Scores as pure functions of predictions and samples: one file per metric."""
