"""Statistics of trials: tests, intervals, fits."""
