"""Recipes "How to use" of distributions by type: configuration of clients, to copy.

They need nothing of the plugin; its `usage` is shown before them.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from django.conf import settings

from pulpcore.plugin.models import Distribution

_GALAXY_API_ROOT = "pulp_ansible/galaxy/<path:path>/api/"
"""pulp_ansible's default of the setting `GALAXY_API_ROOT`."""


class Recipe(NamedTuple):
    """Configuration of a client, or commands."""

    title: str
    text: str


class Served(NamedTuple):
    """Values that recipes are formatted with; none has a character that a shell interprets."""

    name: str
    """The name on one line, for configuration files."""

    url: str
    """External URL of the distribution, with a trailing slash."""

    path: str
    """Base path in a URL, after the domain's name where domains are enabled."""

    has_uploads: bool
    """Whether the plugin's index takes uploads."""

    @property
    def host(self) -> str:
        """Host and port of the URL."""
        return urlsplit(self.url).netloc

    @property
    def origin(self) -> str:
        """Scheme, host and port of the URL, below which plugins have views of the API."""
        return f"{urlsplit(self.url).scheme}://{self.host}"

    @property
    def slug(self) -> str:
        """The name, for ids and file names, and as an argument that is no option."""
        slug = "".join(each if each.isalnum() or each in "-_." else "-" for each in self.name)
        return slug.lstrip("-.") or "pulp"


def how_to_use(distribution: Distribution, url: str) -> tuple[list[Recipe], list[str]]:
    """Return recipes for the distribution at `url`, and notes on guards and keys."""
    kind = distribution.pulp_type.partition(".")[0]
    domain = f"{distribution.pulp_domain.name}/" if settings.DOMAIN_ENABLED else ""
    served = Served(
        " ".join(distribution.name.split()),
        url,
        quote(domain + distribution.base_path),
        bool(getattr(distribution, "allow_uploads", False)),
    )
    recipes = [*_RECIPES.get(kind, _no_recipes)(served), *_file(served)]
    return recipes, list(_notes(distribution))


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


def _no_recipes(served: Served) -> Iterator[Recipe]:
    return iter(())


def _file(served: Served) -> Iterator[Recipe]:
    yield Recipe(
        "curl and wget",
        f"curl -O {served.url}PATH\n"
        f"wget --recursive --no-parent --no-host-directories {served.url}\n",
    )


def _rpm(served: Served) -> Iterator[Recipe]:
    repo = (
        f"[{served.slug}]\nname={served.name}\nbaseurl={served.url}\nenabled=1\n"
        f"repo_gpgcheck=0\ngpgcheck=1\n# gpgkey={served.url}repodata/repomd.xml.key\n"
    )
    yield Recipe(f"dnf: /etc/yum.repos.d/{served.slug}.repo", repo)
    yield Recipe(
        "zypper",
        f"zypper addrepo {served.url} {served.slug}\nzypper refresh {served.slug}\n",
    )
    yield Recipe(
        "Ready-made configuration",
        f"dnf config-manager --add-repo {served.url}config.repo\n",
    )


def _deb(served: Served) -> Iterator[Recipe]:
    key = f"/etc/apt/keyrings/{served.slug}.asc"
    yield Recipe(
        f"apt, deb822: /etc/apt/sources.list.d/{served.slug}.sources",
        f"Types: deb\nURIs: {served.url}\nSuites: default\nComponents: all\nSigned-By: {key}\n"
        "# Without a signing service: Trusted: yes\n",
    )
    yield Recipe(
        f"apt, one line: /etc/apt/sources.list.d/{served.slug}.list",
        f"deb [signed-by={key}] {served.url} default all\n",
    )


def _python(served: Served) -> Iterator[Recipe]:
    # The simple index is a view of the API beside the content.
    prefix = getattr(settings, "PYPI_PATH_PREFIX", "/pypi/").strip("/")
    index = f"{served.origin}/{prefix}/{served.path}/"
    yield Recipe("pip", f"pip install --index-url {index}simple/ PACKAGE\n")
    yield Recipe("uv", f"uv pip install --default-index {index}simple/ PACKAGE\n")
    if served.has_uploads:
        yield Recipe("twine", f"twine upload --repository-url {index}legacy/ dist/*\n")


def _container(served: Served) -> Iterator[Recipe]:
    image = f"{served.host}/{served.path}"
    yield Recipe("podman", f"podman pull {image}:TAG\n")
    yield Recipe("docker", f"docker pull {image}:TAG\n")


def _npm(served: Served) -> Iterator[Recipe]:
    yield Recipe("npm", f"npm install --registry {served.url} PACKAGE\n")
    yield Recipe(".npmrc", f"registry={served.url}\n")


def _maven(served: Served) -> Iterator[Recipe]:
    yield Recipe(
        "Maven: settings.xml",
        "<settings>\n  <mirrors>\n    <mirror>\n"
        f"      <id>{served.slug}</id>\n      <mirrorOf>*</mirrorOf>\n"
        f"      <url>{served.url}</url>\n    </mirror>\n  </mirrors>\n</settings>\n",
    )
    yield Recipe(
        "Gradle", f'repositories {{\n    maven {{\n        url = uri("{served.url}")\n    }}\n}}\n'
    )


def _gem(served: Served) -> Iterator[Recipe]:
    yield Recipe("gem", f"gem install --clear-sources --source {served.url} NAME\n")
    yield Recipe("Gemfile", f'source "{served.url}"\n')


def _ansible(served: Served) -> Iterator[Recipe]:
    root = getattr(settings, "GALAXY_API_ROOT", _GALAXY_API_ROOT)
    galaxy = f"{served.origin}/{root.replace('<path:path>/api/', served.path + '/').lstrip('/')}"
    yield Recipe(
        "ansible-galaxy", f"ansible-galaxy collection install --server {galaxy} NAMESPACE.NAME\n"
    )


def _ostree(served: Served) -> Iterator[Recipe]:
    yield Recipe(
        "ostree",
        f"ostree remote add --no-gpg-verify {served.slug} {served.url}\n"
        f"ostree pull {served.slug} REF\n",
    )


_RECIPES: dict[str, Callable[[Served], Iterator[Recipe]]] = {
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
