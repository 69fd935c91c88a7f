"""Let the clients from PyPI speak to a Pulp with domains.

They are generated from a Pulp without domains, whose paths name none. Upstream's CI generates them
once more; here their methods take `pulp_domain`, and paths get the domain's name.
"""

from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from importlib import import_module
from typing import Any

DEFAULT = "default"
MODULES = ("pulpcore", "pulp_file", "pulp_certguard")

_domain: ContextVar[str] = ContextVar("domain", default=DEFAULT)


def use_domains() -> None:
    """Change the classes of all clients in this process."""
    for name in MODULES:
        module = import_module(f"pulpcore.client.{name}")
        module.ApiClient.param_serialize = _within_domain(module.ApiClient.param_serialize)
        for api in (each for key, each in vars(module).items() if key.endswith("Api")):
            for key, method in list(vars(api).items()):
                if callable(method) and not key.startswith("_"):
                    setattr(api, key, _taking_domain(method))


def _taking_domain(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(*args: Any, pulp_domain: str = DEFAULT, **kwargs: Any) -> Any:
        token = _domain.set(pulp_domain)
        try:
            return method(*args, **kwargs)
        finally:
            _domain.reset(token)

    return call


def _within_domain(serialize: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(serialize)
    def call(*args: Any, resource_path: str, **kwargs: Any) -> Any:
        # Other paths are in an object's `pulp_href`, which has its domain.
        path = resource_path.replace("/pulp/api/v3/", f"/pulp/{_domain.get()}/api/v3/", 1)
        return serialize(*args, resource_path=path, **kwargs)

    return call
