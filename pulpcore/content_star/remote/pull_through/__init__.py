"""Pull-through: files that a distribution lacks and its remote may have."""
