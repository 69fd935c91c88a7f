"""`python -m pulpcore.content_star.cli`, for when the `pulp-star` script is not on the path."""

from pulpcore.content_star.cli import main

main(prog_name="pulp-star")
