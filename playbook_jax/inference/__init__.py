"""A trained model in use: evaluation of a checkpoint, export."""
