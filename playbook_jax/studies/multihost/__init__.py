"""Running each trial of a study on several hosts."""
