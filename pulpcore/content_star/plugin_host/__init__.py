"""Discovery of plugins and the apps that serve their content."""
