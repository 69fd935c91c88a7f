"""Upstream's own functional tests, which its wheels bring, run against one process of ours."""
