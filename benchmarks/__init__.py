"""Measures content apps side by side; see README.md."""
