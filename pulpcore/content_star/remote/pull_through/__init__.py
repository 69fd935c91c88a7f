"""Files that a distribution lacks and its remote may have."""
