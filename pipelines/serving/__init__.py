"""Models as MLflow stores and serves them.

mlflow_model: the file that MLflow runs when a registered model is loaded
"""
