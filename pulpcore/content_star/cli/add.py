import click


@click.command()
def add():
    pass
