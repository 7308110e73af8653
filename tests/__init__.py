"""Tests of nepa_keras; `tests/run.py` runs them all."""
