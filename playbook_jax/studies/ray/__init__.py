"""Running the trials of a study on a Ray cluster."""
