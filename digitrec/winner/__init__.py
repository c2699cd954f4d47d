"""The saved model: written, loaded, used for predictions and exported; numpy only."""
