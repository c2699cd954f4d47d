"""Training in pure torch: model, products, epoch loop and checkpoint."""
