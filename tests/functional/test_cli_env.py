"""`pulp-star env`: Pulp's own commands on the state of a running `pulp-star up`."""

import shlex

from tests.instance import Instance


def exports(text: str) -> dict[str, str]:
    words = [shlex.split(line) for line in text.splitlines()]
    assert all(len(line) == 2 and line[0] == "export" for line in words)
    return dict(line[1].split("=", 1) for line in words)


def test_prints_only_exports_of_pulp(instance: Instance) -> None:
    variables = exports(instance.star("env").stdout)

    assert variables == instance.environ
    assert all(name.startswith(("PULP_", "DJANGO_SETTINGS_MODULE")) for name in variables)


def test_a_management_command_works_on_the_same_state(instance: Instance) -> None:
    script = (
        'eval "$("$0" -m pulpcore.content_star.cli env)" && exec "$1" dumpdata auth.user core.user'
    )
    import sys
    from pathlib import Path

    manager = str(Path(sys.executable).with_name("pulpcore-manager"))
    completed = instance.run(["sh", "-c", script, sys.executable, manager])

    assert '"username": "admin"' in completed.stdout
