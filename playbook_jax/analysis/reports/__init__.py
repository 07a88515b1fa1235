"""Reports of studies, groups and comparisons, and the next study."""
