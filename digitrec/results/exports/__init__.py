"""A study in the formats of other tools: Optuna and TensorBoard."""
