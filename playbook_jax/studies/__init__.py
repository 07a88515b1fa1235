"""Studies: search spaces, samplers, the launcher and where trials run."""
