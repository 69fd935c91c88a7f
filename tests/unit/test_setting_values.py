"""Values of settings with which a process does not start."""

import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from pulpcore.content_star.app import settings as defaults
from pulpcore.content_star.app.setting_values import VALUES, require_valid_settings

DOCS = (Path(__file__).parents[2] / "docs/settings.md").read_text()

INF, NAN = float("inf"), float("nan")
TOO_LARGE = 10**400
NUMBERS = [name for name, values in VALUES.items() if "number" in values.description]
SINGLE_NUMBERS = [name for name in NUMBERS if name != "CONTENT_STAR_GC_THRESHOLDS"]
OPTIONAL = {
    "CONTENT_STAR_GC_THRESHOLDS",
    "CONTENT_STAR_MAX_BODY_SIZE",
    "CONTENT_STAR_SENDFILE",
    "CONTENT_STAR_SWITCH_INTERVAL",
}
THRESHOLDS = "a list of one to three whole numbers from 0, such as [700, 10, 100], or None"


def refusal(name: str, value: object) -> str:
    with override_settings(**{name: value}), pytest.raises(ImproperlyConfigured) as error:
        require_valid_settings()
    return str(error.value)


@pytest.mark.parametrize("name", SINGLE_NUMBERS)
def test_setting_of_a_number_refuses_all_else(name):
    for value in ("10MB", "3", "", True, False, -1, INF, NAN, TOO_LARGE, [3]):
        assert refusal(name, value).startswith(f"{name} is ")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("API_THREADS", 0, "0: set it to a whole number from 1; the default is 8"),
        ("API_THREADS", 3.0, "3.0: set it to a whole number from 1; the default is 8"),
        ("API_NICE", 2.5, "2.5: set it to a whole number from 0; the default is 3"),
        ("API_WAITING", "many", "'many': set it to a number from 0; the default is 256"),
        ("DATABASE_TIMEOUT", 0, "0: set it to a number of more than 0; the default is 5"),
        ("HEAD_TIMEOUT", 0, "0: set it to a number of more than 0; the default is 30"),
        ("BODY_TIMEOUT", 0.0, "0.0: set it to a number of more than 0; the default is 60"),
        (
            "SWITCH_INTERVAL",
            0,
            "0: set it to a number of more than 0, or None; the default is 0.001",
        ),
        ("MAX_BODY_SIZE", -1, "-1: set it to a number from 0, or None; the default is None"),
        ("GC_THRESHOLDS", "3", f"'3': set it to {THRESHOLDS}; the default is (700, 10, 100)"),
        ("SENDFILE", True, "True: set it to a string; the default is ''"),
        ("LINKS", "a", "'a': set it to a dict of names to URLs; the default is {}"),
        ("CACHE_BYTES", "x" * 500, "'xxxxxxxxxxxx...xxxxxxxxxxxxx': set it to a number from 0"),
    ],
)
def test_error_of_a_setting_names_value_and_valid_ones_and_documentation(name, value, text):
    line = refusal(f"CONTENT_STAR_{name}", value)
    assert line.startswith(f"CONTENT_STAR_{name} is {text}") and line.endswith("(docs/settings.md)")
    assert "\n" not in line


@pytest.mark.parametrize(
    "value",
    ["700", "(700, 10, 100)", 700, True, [], [1, 2, 3, 4], [-1, 10], [2**31], [1.0], [True], {700}],
    ids=repr,
)
def test_thresholds_that_python_refuses_or_misunderstands_are_refused(value):
    assert THRESHOLDS in refusal("CONTENT_STAR_GC_THRESHOLDS", value)


def test_setting_that_is_on_or_off_refuses_all_else():
    """A text such as "no" would be true; TOML's booleans are `true` and `false`."""
    names = [name for name, values in VALUES.items() if values.description == "True or False"]
    assert "CONTENT_STAR_CORS" in names and len(names) == 5
    for name in names:
        for value in ("no", "False", "", 0, 1, []):
            assert refusal(name, value).startswith(f"{name} is {value!r}: set it to True or False")


@pytest.mark.parametrize("value", ["Classic", "", "list", False, ["page"]])
def test_index_of_another_form_is_refused(value):
    assert "set it to page or classic" in refusal("CONTENT_STAR_INDEX", value)


@pytest.mark.parametrize("value", [5, True, ["/a"]])
def test_setting_of_a_string_that_responses_need_is_refused(value):
    assert "a string" in refusal("CONTENT_STAR_SENDFILE", value)


@pytest.mark.parametrize("name", VALUES)
def test_none_is_refused_unless_it_has_a_meaning(name):
    if name in OPTIONAL:
        with override_settings(**{name: None}):
            require_valid_settings()
    else:
        assert refusal(name, None).startswith(f"{name} is None")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("API_NICE", 0),
        ("API_THREADS", 2**63),
        ("API_WAITING", 0),
        ("CACHE_BYTES", 1e9),
        ("CONNECTIONS", 0),
        ("DATABASE_TIMEOUT", 10_000_000),
        ("DATABASE_TIMEOUT", 0.1),
        ("GC_THRESHOLDS", [0]),
        ("GC_THRESHOLDS", (700, 10, 2**31 - 1)),
        ("LINKS", {"a": "/a"}),
        ("MAX_BODY_SIZE", 0),
        ("MAX_BODY_SIZE", 1e7),
        ("REDIRECT_MIN_SIZE", sys.maxsize),
        ("SENDFILE", "X-Sendfile"),
        ("STALE_IF_ERROR", 1e300),
        ("SWITCH_INTERVAL", 1e-6),
    ],
)
def test_valid_value_of_a_setting_is_accepted(name, value):
    with override_settings(**{f"CONTENT_STAR_{name}": value}):
        require_valid_settings()


def test_settings_with_values_are_in_the_documentation_and_have_valid_defaults():
    require_valid_settings()
    assert {name for name in VALUES if f"| `{name}` |" not in DOCS} == set()
    assert set(VALUES) <= set(vars(defaults))


def test_error_has_all_invalid_settings():
    with override_settings(CONTENT_STAR_API_NICE=None):
        line = refusal("CONTENT_STAR_CONNECTIONS", -1)
    assert "CONTENT_STAR_API_NICE is None" in line and "CONTENT_STAR_CONNECTIONS is -1" in line
