"""Models as MLflow stores and serves them."""
