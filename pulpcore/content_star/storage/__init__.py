"""Where the bytes of artifacts are, and who sends them."""
