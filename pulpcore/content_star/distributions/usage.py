"""Recipes "How to use" of distributions by type: configuration of clients, to copy.

They need nothing of the plugin; its `usage` is shown before them.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import quote

from django.conf import settings

from pulpcore.content_star.listings.distributions import image_name
from pulpcore.content_star.listings.site import host_of
from pulpcore.plugin.models import Distribution, Publication, PublishedMetadata

_GALAXY_API_ROOT = "pulp_ansible/galaxy/<path:path>/api/"
"""pulp_ansible's default of the setting `GALAXY_API_ROOT`."""

_MAX_INDEXES = 200
"""Published package indexes that are looked at for the suites of a deb repository."""


class Recipe(NamedTuple):
    """Configuration of a client, or commands."""

    title: str
    text: str


class RecipeContext(NamedTuple):
    """Values that recipes are formatted with; none has a character that a shell interprets."""

    name: str
    """The name on one line of printable characters, for configuration files."""

    url: str
    """External URL that clients are configured with, with a trailing slash."""

    path: str
    """Base path in a URL, after the domain's name where domains are enabled."""

    distribution: Distribution
    publication: Publication | None
    """The one that is served, as the plugin's class."""

    @property
    def host(self) -> str:
        """Host and port of the URL."""
        return host_of(self.url)

    @property
    def origin(self) -> str:
        """Scheme, host and port of the URL, below which plugins have views of the API."""
        return f"{self.url.partition('://')[0]}://{self.host}"

    @property
    def is_plain_http(self) -> bool:
        """Whether the URL has no TLS, which some clients refuse by default."""
        return self.url.startswith("http://")

    @property
    def slug(self) -> str:
        """The name, for ids and file names, and as an argument that is no option."""
        slug = "".join(each if each.isalnum() or each in "-_." else "-" for each in self.name)
        return slug.lstrip("-.") or "pulp"


def how_to_use(
    distribution: Distribution, url: str, publication: Publication | None = None
) -> tuple[list[Recipe], list[str]]:
    """Return recipes for the distribution at `url`, and notes on its guard.

    `publication` is the one that is served.
    """
    kind = distribution.pulp_type.partition(".")[0]
    domain = f"{distribution.pulp_domain.name}/" if settings.DOMAIN_ENABLED else ""
    context = RecipeContext(
        _one_line(distribution.name),
        url,
        quote(domain + distribution.base_path),
        distribution,
        publication and publication.cast(),
    )
    recipes = [*_RECIPES.get(kind, _no_recipes)(context), *_file(context)]
    return recipes, list(_notes(distribution))


def _one_line(text: str) -> str:
    """Return text without line breaks, control characters and marks of direction."""
    return "".join(each for each in " ".join(text.split()) if each.isprintable())


def _notes(distribution: Distribution) -> Iterator[str]:
    guard = distribution.content_guard
    if guard is None:
        return
    kind = guard.pulp_type
    if "rhsm" in kind or "x509" in kind:
        yield "Access needs a client certificate."
    elif "redirect" in kind:
        yield "Access needs a signed URL, which Pulp's API gives."
    elif "rbac" in kind or "composite" in kind:
        yield "Access needs a user name and password that have permission to download."
    else:
        yield "Access is guarded: the server may ask for a credential."


def _no_recipes(context: RecipeContext) -> Iterator[Recipe]:
    return iter(())


def _file(context: RecipeContext) -> Iterator[Recipe]:
    yield Recipe(
        "curl and wget",
        f"curl -fLO {context.url}PATH\n"
        f"wget --recursive --no-parent --no-host-directories {context.url}\n",
    )


def _rpm(context: RecipeContext) -> Iterator[Recipe]:
    config = getattr(context.publication, "repo_config", None) or {}
    checks = {name: _flag(config.get(name)) for name in ("gpgcheck", "repo_gpgcheck")}
    repo = (
        f"[{context.slug}]\nname={context.name}\nbaseurl={context.url}\nenabled=1\n"
        f"gpgcheck={checks['gpgcheck']}\nrepo_gpgcheck={checks['repo_gpgcheck']}\n"
        "# For signed packages: gpgcheck=1, and the URL of their key as gpgkey\n"
    )
    yield Recipe(f"dnf: /etc/yum.repos.d/{context.slug}.repo", repo)
    # Checks of signatures are on by default.
    unchecked = "" if any(checks.values()) else "--no-gpgcheck "
    yield Recipe(
        "zypper",
        f"zypper addrepo {unchecked}{context.url} {context.slug}\nzypper refresh {context.slug}\n",
    )
    if getattr(context.distribution, "generate_repo_config", False):
        yield Recipe(
            "Ready-made configuration", f"dnf config-manager --add-repo {context.url}config.repo\n"
        )


def _flag(value: object) -> int:
    """Return a switch of a publication's configuration, which may be any JSON."""
    return int(str(value).strip().lower() in ("1", "true", "yes"))


def _deb(context: RecipeContext) -> Iterator[Recipe]:
    suites = _suites(context.publication) or {"default": ["all"]}
    key = getattr(getattr(context.publication, "signing_service", None), "public_key", "")
    folded = "".join(f"\n {line or '.'}" for line in key.strip().splitlines())
    trust = f"Signed-By:{folded}\n" if key else "Trusted: yes\n"
    file = f"/etc/apt/keyrings/{context.slug}.asc"
    option = f"signed-by={file}" if key else "trusted=yes"
    yield Recipe(
        f"apt, deb822: /etc/apt/sources.list.d/{context.slug}.sources",
        "\n".join(
            f"Types: deb\nURIs: {context.url}\nSuites: {suite}\n"
            f"Components: {' '.join(components)}\n{trust}"
            for suite, components in suites.items()
        ),
    )
    yield Recipe(
        f"apt, one line: /etc/apt/sources.list.d/{context.slug}.list",
        "".join(
            f"deb [{option}] {context.url} {suite} {' '.join(components)}\n"
            for suite, components in suites.items()
        ),
    )
    if key:
        yield Recipe(f"Key of the repository: {file}", key)


def _suites(publication: Publication | None) -> dict[str, list[str]]:
    """Return the components of each suite that pulp_deb has published."""
    if publication is None:
        return {}
    packages = r"^dists/[^\s]+/[^/\s]+/binary-[^/]+/Packages$"
    paths = (
        PublishedMetadata.objects.filter(publication=publication, relative_path__regex=packages)
        .order_by("relative_path")
        .values_list("relative_path", flat=True)[:_MAX_INDEXES]
    )
    suites: dict[str, list[str]] = {}
    for path in filter(str.isprintable, paths):
        suite, component, *_ = path.removeprefix("dists/").rsplit("/", 3)
        components = suites.setdefault(suite, [])
        if component not in components:
            components.append(component)
    return suites


def _python(context: RecipeContext) -> Iterator[Recipe]:
    # The simple index is a view of the API beside the content.
    prefix = getattr(settings, "PYPI_PATH_PREFIX", "/pypi/").strip("/")
    index = f"{context.origin}/{prefix}/{context.path}/"
    trusted = f"--trusted-host {context.host} " if context.is_plain_http else ""
    yield Recipe("pip", f"pip install {trusted}--index-url {index}simple/ PACKAGE\n")
    yield Recipe("uv", f"uv pip install --default-index {index}simple/ PACKAGE\n")
    if getattr(context.distribution, "allow_uploads", False):
        yield Recipe("twine", f"twine upload --repository-url {index}legacy/ dist/*\n")


def _container(context: RecipeContext) -> Iterator[Recipe]:
    image = image_name(context.host, context.path, context.distribution.pulp_type)
    is_private = getattr(context.distribution, "private", False)
    insecure = "--tls-verify=false " if context.is_plain_http else ""
    for client, option in (("podman", insecure), ("docker", "")):
        login = f"{client} login {option}{context.host}\n" if is_private else ""
        yield Recipe(client, f"{login}{client} pull {option}{image}\n")


def _npm(context: RecipeContext) -> Iterator[Recipe]:
    yield Recipe("npm", f"npm install --registry {context.url} PACKAGE\n")
    yield Recipe(".npmrc", f"registry={context.url}\n")


def _maven(context: RecipeContext) -> Iterator[Recipe]:
    yield Recipe(
        "Maven: settings.xml",
        "<settings>\n  <mirrors>\n    <mirror>\n"
        f"      <id>{context.slug}</id>\n      <mirrorOf>*</mirrorOf>\n"
        f"      <url>{context.url}</url>\n    </mirror>\n  </mirrors>\n</settings>\n",
    )
    insecure = "        allowInsecureProtocol = true\n" if context.is_plain_http else ""
    yield Recipe(
        "Gradle",
        f'repositories {{\n    maven {{\n        url = uri("{context.url}")\n'
        f"{insecure}    }}\n}}\n",
    )


def _gem(context: RecipeContext) -> Iterator[Recipe]:
    yield Recipe("gem", f"gem install --clear-sources --source {context.url} NAME\n")
    yield Recipe("Gemfile", f'source "{context.url}"\n')


def _ansible(context: RecipeContext) -> Iterator[Recipe]:
    root = getattr(settings, "GALAXY_API_ROOT", _GALAXY_API_ROOT)
    galaxy = f"{context.origin}/{root.replace('<path:path>/api/', context.path + '/').lstrip('/')}"
    yield Recipe(
        "ansible-galaxy", f"ansible-galaxy collection install --server {galaxy} NAMESPACE.NAME\n"
    )


def _ostree(context: RecipeContext) -> Iterator[Recipe]:
    yield Recipe(
        "ostree",
        f"ostree remote add --no-gpg-verify {context.slug} {context.url}\n"
        f"ostree pull {context.slug} REF\n",
    )


_RECIPES: dict[str, Callable[[RecipeContext], Iterator[Recipe]]] = {
    "rpm": _rpm,
    "deb": _deb,
    "python": _python,
    "container": _container,
    "npm": _npm,
    "maven": _maven,
    "gem": _gem,
    "ansible": _ansible,
    "ostree": _ostree,
}
