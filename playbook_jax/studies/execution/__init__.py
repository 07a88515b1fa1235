"""Running the trials of a study on this machine."""
