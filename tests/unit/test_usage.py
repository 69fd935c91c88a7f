"""Recipes of the panel "How to use"."""

import shlex
from types import SimpleNamespace
from uuid import uuid4

import pytest

from pulpcore.app.models import Distribution
from pulpcore.content_star.distributions.usage import _RECIPES, how_to_use
from pulpcore.content_star.listings.site import host_of

URL = "https://example.org:8443/pulp/content/base/"
TITLES_OF_COMMANDS = (
    "zypper",
    "Ready-made configuration",
    "pip",
    "uv",
    "twine",
    "podman",
    "docker",
    "npm",
    "gem",
    "ansible-galaxy",
    "ostree",
    "curl and wget",
)


def recipes_of(kind: str, url: str = URL, subtype: str = "", **fields: object) -> dict[str, str]:
    pulp_type = f"{kind}.{subtype or kind}"
    is_private = bool(fields.pop("private", False))
    distribution = Distribution(pulp_type=pulp_type, pulp_domain_id=uuid4(), **fields)
    distribution.allow_uploads = True
    distribution.private = is_private
    recipes, _ = how_to_use(distribution, url)
    return {recipe.title: recipe.text for recipe in recipes}


@pytest.mark.parametrize("kind", ["file", *_RECIPES])
@pytest.mark.parametrize(
    "name",
    [
        "--exec=reboot",
        "x\n[evil]\nbaseurl=http://evil.invalid/",
        "x\u2028[evil]\x85baseurl=http://evil.invalid/\r",
        "$(a)",
        "\x1b]0;title\x07\u202elmth.exe\u2066\x9b2J",
        "</id><url>http://evil.invalid/</url>\"')}",
    ],
)
def test_recipes_of_a_hostile_name_run_nothing_else(kind: str, name: str) -> None:
    recipes = recipes_of(kind, name=name, base_path="a;b $(reboot)`c`'d'/&e")
    for title, text in recipes.items():
        assert all(line.isprintable() for line in text.split("\n"))
        assert "\n[evil]" not in text
        assert not title.startswith("Maven") or text.count("<url>") == 1
        assert "\nbaseurl=http://evil" not in text
        if title not in TITLES_OF_COMMANDS:
            continue
        for line in text.splitlines():
            words = list(shlex.shlex(line, posix=True, punctuation_chars=True))
            assert "reboot" not in words
            assert not set("".join(words)) & set(";$`()&'")


@pytest.mark.parametrize(
    ("value", "check"),
    [
        (1, 1),
        (True, 1),
        ("1", 1),
        (0, 0),
        (None, 0),
        ("0\nbaseurl=http://evil.invalid/", 0),
        ([1], 0),
    ],
)
def test_recipe_has_no_other_value_of_a_publication_than_a_switch(
    value: object, check: int
) -> None:
    config = {"gpgcheck": value, "repo_gpgcheck": value, "baseurl": "http://evil.invalid/"}
    publication = SimpleNamespace(repo_config=config, cast=lambda: publication)
    distribution = Distribution(
        pulp_type="rpm.rpm", pulp_domain_id=uuid4(), name="a", base_path="a"
    )
    recipes, _ = how_to_use(distribution, URL, publication)
    repo = recipes[0].text
    assert f"\ngpgcheck={check}\nrepo_gpgcheck={check}\n" in repo
    assert "evil" not in repo


def test_recipes_name_the_views_beside_the_content() -> None:
    recipes = recipes_of("python", name="name", base_path="team/pypi")
    index = "https://example.org:8443/pypi/team/pypi/"
    assert recipes["pip"].split()[-2] == f"{index}simple/"
    assert f"{index}legacy/" in recipes["twine"]
    galaxy = "https://example.org:8443/pulp_ansible/galaxy/team/pypi/"
    assert galaxy in recipes_of("ansible", name="name", base_path="team/pypi")["ansible-galaxy"]
    pull = recipes_of("container", name="name", base_path="team/image")["podman"]
    assert pull == "podman pull example.org:8443/team/image:TAG\n"


def test_recipes_of_containers_have_login_and_image_where_needed() -> None:
    private = recipes_of("container", name="name", base_path="team/image", private=True)
    assert private["docker"].splitlines() == [
        "docker login example.org:8443",
        "docker pull example.org:8443/team/image:TAG",
    ]
    hub = recipes_of("container", subtype="pull-through", name="name", base_path="hub")
    assert hub["podman"] == "podman pull example.org:8443/hub/IMAGE:TAG\n"


def test_recipes_of_plain_http_have_the_options_of_clients_that_refuse_it() -> None:
    named = {"name": "name", "base_path": "base"}
    expected = {
        ("python", "pip"): "--trusted-host example.org:8443",
        ("container", "podman"): "--tls-verify=false",
        ("maven", "Gradle"): "allowInsecureProtocol = true",
    }
    for (kind, client), option in expected.items():
        assert option in recipes_of(kind, URL.replace("https", "http"), **named)[client]
        assert option not in recipes_of(kind, **named)[client]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://pulp.example/pulp/content/a/", "pulp.example"),
        ("http://[::1]:8080/a/", "[::1]:8080"),
        ("http://[abc]/a/", "[abc]"),
        ("http://[/", "["),
    ],
)
def test_host_of_any_url_is_no_error(url, host):
    assert host_of(url) == host
