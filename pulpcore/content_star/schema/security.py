"""Security schemes of content: the configured authentication classes, and content guards."""

import logging
from collections.abc import Iterable
from typing import Any

from django.apps import apps
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.views import APIView

from pulpcore.content_star.schema.specification import validate_document
from pulpcore.content_star.schema.types import JSON
from pulpcore.plugin.models import ContentGuard

log = logging.getLogger(__name__)

_EMPTY: JSON = {"openapi": "3.1.0", "info": {"title": "schemes", "version": "1"}}

# Credentials that guards read, by type. A header guard has the name of its header in a field.
_HEADER = {
    "type": "apiKey",
    "in": "header",
    "name": "X-HEADER-OF-THE-GUARD",
    "description": "The header that the content guard names (`header_name`), base64-encoded.",
}
_CERTIFICATE = {
    "type": "apiKey",
    "in": "header",
    "name": "X-CLIENT-CERT",
    "description": "The client certificate (TLS), which the reverse proxy passes on, URL-encoded.",
}
GUARD_SCHEMES: dict[str, tuple[str, JSON]] = {
    "core.content_redirect": (
        "signedUrl",
        {
            "type": "apiKey",
            "in": "query",
            "name": "validate_token",
            "description": "A URL with `expires` and this signature, which Pulp's API gives.",
        },
    ),
    "core.header": ("headerGuard", _HEADER),
    "core.envvar_header": ("headerGuard", _HEADER),
    "certguard.x509": ("clientCertificate", _CERTIFICATE),
    "certguard.rhsm": ("clientCertificate", _CERTIFICATE),
}


def security_schemes() -> dict[str, JSON]:
    """Return the security schemes by name: of authentication, and of installed content guards."""
    guards = [model for model in apps.get_models() if issubclass(model, ContentGuard)]
    installed = {model.get_pulp_type() for model in guards if model is not ContentGuard}
    found = (GUARD_SCHEMES[kind] for kind in GUARD_SCHEMES if kind in installed)
    return authentication_schemes() | dict(found)


def authentication_schemes() -> dict[str, JSON]:
    """Return the schemes of the configured authentication classes, as in Pulp's REST API."""
    schemes: dict[str, JSON] = {}
    for authentication_class in APIView.authentication_classes:
        extension = OpenApiAuthenticationExtension.get_match(authentication_class)
        if extension is None:
            continue
        try:
            found: Any = extension.get_security_definition(None)  # type: ignore[arg-type]
            names = [extension.name] if isinstance(extension.name, str) else extension.name
            definitions = found if isinstance(found, list) else [found]
            made = dict(zip(names, definitions, strict=True))
            validate_document({**_EMPTY, "components": {"securitySchemes": made}})
            schemes |= made
        except Exception as error:  # of a plugin's extension, or of a setting without a scheme
            name = getattr(authentication_class, "__name__", authentication_class)
            log.error("The OpenAPI document has no security scheme of %s: %r.", name, error)
    return schemes


def authentication_names(schemes: Iterable[str]) -> list[str]:
    """Return the names of those `schemes` that are not of content guards."""
    guards = {name for name, _ in GUARD_SCHEMES.values()}
    return [name for name in schemes if name not in guards]


def requirements(schemes: Iterable[str]) -> list[JSON]:
    """Return the security requirement of content: none, or any of these schemes."""
    return [{}, *({name: []} for name in schemes)]
