"""Which class serves the distributions of which model."""

from collections.abc import Callable
from typing import TypeVar

from pulpcore.app.models import Distribution
from pulpcore.content_star.distributions.base import DistributionApp

App = TypeVar("App", bound=type[DistributionApp])

_apps: dict[type[Distribution], type[DistributionApp]] = {}


def serves(model: type[Distribution]) -> Callable[[App], App]:
    """Have the decorated class serve the distributions of `model`, and of models derived from it.

    Raises ValueError if another class does already, naming both.
    """

    def register(app: App) -> App:
        if model in _apps:
            raise ValueError(f"{_apps[model]} and {app} both want to serve {model}.")
        _apps[model] = app
        return app

    return register


def app_of(model: type[Distribution]) -> type[DistributionApp]:
    """Return the class that serves `model`: its own, or that of the nearest model above it."""
    return next(_apps[kind] for kind in model.__mro__ if kind in _apps)
