"""Tests of provenance, timing and profiles."""
