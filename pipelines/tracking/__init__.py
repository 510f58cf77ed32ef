"""MLflow: runs, the model registry and its gate. No other folder knows it."""
