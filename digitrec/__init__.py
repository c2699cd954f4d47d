"""digitrec finds the best hyperparameters for a digit-recognition MLP with Ray Tune."""
