"""Templates of an operator: blocks of ours overridden by a folder in `TEMPLATES`."""

from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import STATE
from tests.functional.test_pages import BROWSER
from tests.support.server import serving

# As in docs/listings.md, with a folder of the test.
SETTINGS = """
TEMPLATES = [
    {{
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [{folder!r}],
        "APP_DIRS": True,
        "OPTIONS": {{
            "context_processors": [
                "django.template.context_processors.debug",
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        }},
    }},
]
"""
TEMPLATES = {
    "base.html": """\
{% extends "content_star/base.html" %}
{% block header %}<p>HEADER {{ site }}</p>{{ block.super }}{% endblock %}
{% block footer %}FOOTER{% endblock %}
""",
    **{
        f"{name}.html": f"""\
{{% extends "content_star/{name}.html" %}}
{{% block panel %}}<p>PANEL</p>{{{{ block.super }}}}{{% endblock %}}
"""
        for name in ("directory", "use", "file")
    },
}


@pytest.fixture(scope="module")
def client(instance, tmp_path_factory) -> Iterator[httpx.Client]:
    """A client of a server whose settings name a folder with templates."""
    folder = tmp_path_factory.mktemp("templates")
    own = folder / "content_star"
    own.mkdir()
    for name, text in TEMPLATES.items():
        (own / name).write_text(text)
    settings = folder / "settings.py"
    settings.write_text(STATE.settings.read_text() + SETTINGS.format(folder=str(folder)))
    content = "pulpcore.routing:content_application"
    with (
        serving(instance, app=content, PULP_SETTINGS=str(settings)) as server,
        httpx.Client(base_url=server.content_url) as client,
    ):
        yield client


@pytest.mark.parametrize(
    ("path", "status", "has_panel"),
    [
        ("", 200, False),
        ("{base}/", 200, True),
        ("{base}/?use", 200, True),
        ("{base}/a.txt?info", 200, True),
        ("{base}/gone", 404, False),
        ("{base}/?sort=color", 400, False),
    ],
)
def test_templates_of_the_operator_override_blocks(client, base, path, status, has_panel):
    answer = client.get(path.format(base=base), headers=BROWSER)
    assert answer.status_code == status
    assert "<p>HEADER Pulp" in answer.text
    assert "<footer>FOOTER</footer>" in answer.text
    assert ("<p>PANEL</p>" in answer.text) == has_panel
    assert 'class="site"' in answer.text, "the header of ours, by block.super"
    assert ("<details" in answer.text) == (has_panel and "?info" not in path)


def test_list_of_links_has_no_template_of_the_operator(client, base):
    """Package managers parse it."""
    assert "HEADER" not in client.get(f"{base}/").text


@pytest.fixture(scope="module")
def base(module_orm) -> str:
    version = module_orm.version({"a.txt": b"1"})
    return module_orm.distribution(from_publication=False, repository_version=version)
