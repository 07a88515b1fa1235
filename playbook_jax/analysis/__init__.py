"""What a study shows: findings, plots, the report. Reads files only, imports no training code."""
