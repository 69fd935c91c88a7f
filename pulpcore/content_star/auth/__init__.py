"""Authentication of content requests, and authorization by content guards."""
