"""Registry of distribution apps by model of distribution."""

from collections.abc import Callable
from typing import TypeVar

from pulpcore.content_star.distributions.base import DistributionApp
from pulpcore.content_star.distributions.routes import check_routes
from pulpcore.plugin.models import Distribution

App = TypeVar("App", bound=type[DistributionApp])

Registrations = dict[tuple[type[Distribution], bool], type[DistributionApp]]

# Registered classes, by model and by whether they serve its checkpoint distributions.
_registered: Registrations = {}


class AlreadyServed(ValueError):
    """A second class or application was registered for the same distributions or path.

    It stops the start of Pulp, since either may be the intended one.
    """


def serves(model: type[Distribution], *, checkpoint: bool = False) -> Callable[[App], App]:
    """Register the decorated class for distributions of `model` and of models derived from it.

    With `checkpoint` it is registered for their checkpoint distributions instead, for which
    `CheckpointApp` is the default.
    Raises `AlreadyServed` if another class is registered, and TypeError if `model` is not a
    distribution, the class is not a `DistributionApp`, or one of its routes blocks.
    """

    def register(app: App) -> App:
        if not (isinstance(model, type) and issubclass(model, Distribution)):
            raise TypeError(
                f"{name_of(app)} is registered for {model!r}, which is not a distribution model."
            )
        if not (isinstance(app, type) and issubclass(app, DistributionApp)):
            raise TypeError(f"{app!r}, registered for {name_of(model)}, is not a DistributionApp.")
        check_routes(app.routes, name_of(app))
        other = _registered.setdefault((model, checkpoint), app)
        if other is not app:
            kind = "checkpoint distributions" if checkpoint else "distributions"
            raise AlreadyServed(
                f"Both {name_of(other)} and {name_of(app)} are registered for the {kind} of "
                f"{name_of(model)}. Remove one of them."
            )
        return app

    return register


def app_of(model: type[Distribution], *, checkpoint: bool = False) -> type[DistributionApp]:
    """Return the class registered for `model` or for the nearest of its base models."""
    return _registered[registered_model(model, checkpoint=checkpoint), checkpoint]


def registered_model(model: type[Distribution], *, checkpoint: bool = False) -> type[Distribution]:
    """Return `model` or the nearest of its base models for which a class is registered."""
    return next(kind for kind in model.__mro__ if (kind, checkpoint) in _registered)


def has_routes() -> bool:
    """Return whether any class has routes; if not, only GET and HEAD are accepted."""
    return any(app.routes for app in _registered.values())


def registered() -> Registrations:
    """Return a copy of the registry, for `restore`."""
    return dict(_registered)


def restore(earlier: Registrations) -> None:
    """Restore the registry after a module that registered classes failed to import."""
    _registered.clear()
    _registered.update(earlier)


def name_of(thing: object) -> str:
    """Return the dotted name of a class or function, or the representation of anything else."""
    name = getattr(thing, "__qualname__", None)
    return f"{thing.__module__}.{name}" if name else repr(thing)
