"""A study in the formats of other tools: Optuna, TensorBoard and MLflow."""
