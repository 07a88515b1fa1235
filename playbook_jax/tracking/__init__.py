"""Records of how a run was made: provenance, timing, profiles, TensorBoard."""
