"""`python -m pulpcore.content_star.cli`: the command where `pulp-star` is not on the path."""

from pulpcore.content_star.cli import main

main(prog_name="pulp-star")
