"""Tests of Pulp's content app; this module is imported before all others."""

import os
import sys

# This process and those that it starts keep compiled modules: to compile ours takes 0.25 s of CPU
# each time, and to rewrite the asserts of all tests four.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
