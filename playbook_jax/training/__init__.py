"""The training run: its loop, its compiled step, its evaluation, what it records."""
