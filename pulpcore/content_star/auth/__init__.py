"""Who sends a request, and whether a content guard lets it pass."""
