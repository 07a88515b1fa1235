"""Tests of evaluation and export."""
