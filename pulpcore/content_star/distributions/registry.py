"""Which class serves the distributions of which model."""

from collections.abc import Callable
from typing import TypeVar

from pulpcore.app.models import Distribution
from pulpcore.content_star.distributions.base import DistributionApp
from pulpcore.content_star.distributions.routes import check

App = TypeVar("App", bound=type[DistributionApp])

Claims = dict[tuple[type[Distribution], bool], type[DistributionApp]]

# By model, and by whether its checkpoint distributions are meant or the others.
_claims: Claims = {}


class AlreadyServed(ValueError):
    """Two want to serve the same: nobody can tell which is right, so that Pulp does not start."""


def serves(model: type[Distribution], *, checkpoint: bool = False) -> Callable[[App], App]:
    """Have the decorated class serve the distributions of `model`, and of models derived from it.

    Those that serve checkpoints are served by a class that was claimed with `checkpoint`, such as
    one derived from `CheckpointApp`, which serves them where no plugin claims them.
    Raises `AlreadyServed` if another class does already, naming both, and TypeError if the class
    is none, or for routes that block.
    """

    def register(app: App) -> App:
        if not (isinstance(model, type) and issubclass(model, Distribution)):
            raise TypeError(f"{name_of(app)} is to serve {model!r}, which is no distribution.")
        if not (isinstance(app, type) and issubclass(app, DistributionApp)):
            raise TypeError(f"{app!r} is to serve {name_of(model)}, and is no DistributionApp.")
        check(app.routes, name_of(app))
        other = _claims.setdefault((model, checkpoint), app)
        if other is not app:
            kind = "checkpoint distributions" if checkpoint else "distributions"
            raise AlreadyServed(
                f"Both {name_of(other)} and {name_of(app)} want to serve the {kind} of "
                f"{name_of(model)}."
            )
        return app

    return register


def app_of(model: type[Distribution], *, checkpoint: bool = False) -> type[DistributionApp]:
    """Return the class that serves `model`: its own, or that of the nearest model above it."""
    return _claims[claimed(model, checkpoint=checkpoint), checkpoint]


def claimed(model: type[Distribution], *, checkpoint: bool = False) -> type[Distribution]:
    """Return `model`, or the nearest model above it, for which a class was registered."""
    return next(kind for kind in model.__mro__ if (kind, checkpoint) in _claims)


def has_routes() -> bool:
    """Tell whether any class has routes, without which no method but GET and HEAD is taken."""
    return any(app.routes for app in _claims.values())


def claims() -> Claims:
    """Return what is claimed now, for `restore`."""
    return dict(_claims)


def restore(earlier: Claims) -> None:
    """Take back what was claimed since: by a module that then failed to import."""
    _claims.clear()
    _claims.update(earlier)


def name_of(thing: object) -> str:
    """Return the dotted name of a class or function, or the representation of anything else."""
    name = getattr(thing, "__qualname__", None)
    return f"{thing.__module__}.{name}" if name else repr(thing)
