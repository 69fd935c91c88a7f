"""Python clients that openapi-generator makes of the REST API's schema, content included.

It is the version that upstream's pulp-openapi-generator has for this pulpcore, with its options. Of
upstream's templates, which are not on PyPI, one setting matters here: slashes in paths are sent.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.instance import Instance
from tests.support.orm import Orm
from tests.support.server import serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("java") is None, reason="needs java"),
]

PACKAGE = "generated_client"

FILE, DEEP = b"content of a file", b"deep"

CALLS = """
import json, sys, uuid
from generated_client import *
from generated_client.exceptions import ApiException, NotFoundException

url, password, base = sys.argv[1:]
configuration = Configuration(host=url, username="admin", password=password)
configuration.safe_chars_for_path_param = "/"
api = ApiClient(configuration)

def status_of(call, *arguments, **fields):
    try:
        return call(*arguments, **fields).status_code
    except ApiException as error:
        return error.status

name = str(uuid.uuid4())
repositories, content = RepositoriesFileApi(api), ContentAppContentApi(api)
made = repositories.create(FileFileRepository(name=name))
listed = repositories.list(name=name).count
task = repositories.delete(made.pulp_href).task
file = content.get_file_with_http_info
print(json.dumps({
    "versions": [each.component for each in StatusApi(api).status_read().versions],
    "repositories": listed,
    "task": TasksApi(api).read(task).pulp_href == task,
    "content units": isinstance(ContentApi(api).list(limit=1).count, int),
    "file": content.get_file(base, "file").decode(),
    "deep": content.get_file(base, "a/b/deep").decode(),
    "range": content.get_file(base, "file", range="bytes=0-1").decode(),
    "info": json.loads(content.get_file(base, "file", info=""))["size"],
    "statuses": [
        content.head_file_with_http_info(base, "file").status_code,
        status_of(file, base, "file", if_none_match="*"),
        status_of(file, base, "file", if_match='"other"'),
        status_of(file, base, "file", range="bytes=99-"),
        status_of(file, base, "none"),
        status_of(content.head_directory_with_http_info, base, "a/b"),
    ],
    "root": [each.name for each in content.get_root(base).actual_instance.entries],
    "use": content.get_root(base, use="").actual_instance.type,
    "directory": [each.name for each in content.get_directory(base, "a/b").entries],
    "index": any(base.startswith(each.name) for each in content.get_index().entries),
    "ready": ContentAppProbesApi(api).get_readiness().ready,
    "schema": ContentAppSchemaApi(api).get_schema()["openapi"],
}))
"""


def generated(document: dict[str, Any], folder: Path) -> Path:
    """Generate a client, and return the folder that has its package."""
    import openapi_generator_cli

    document["info"]["license"]["name"] = "GPL-2.0-or-later"  # as upstream's script does
    source, output = folder / "api.json", folder / "client"
    source.write_text(json.dumps(document))
    jar = Path(openapi_generator_cli.__file__).parent / "openapi-generator.jar"
    arguments = ["generate", "-i", source, "-g", "python", "-o", output]
    options = [f"--additional-properties=packageName={PACKAGE}", "--skip-validate-spec"]
    command = ["java", "-jar", jar, *arguments, *options, "--strict-spec=false"]
    subprocess.run(command, check=True, capture_output=True, timeout=590)
    return output


def words_of(client: Path) -> dict[str, list[str]]:
    """Return the words of the client's API classes and models by file, sorted.

    pulpcore has fields of a model in an order that differs between processes.
    """
    files = [each for kind in ("api", "models") for each in (client / PACKAGE / kind).glob("*.py")]
    return {
        each.name: sorted(re.findall(r"\w+", each.read_text()))
        for each in files
        if each.name != "__init__.py"
    }


def test_generated_client_calls_the_api_and_content(instance: Instance, orm: Orm, tmp_path):
    url = f"{instance.url}/pulp/api/v3/docs/api.json?bindings"
    document = httpx.get(url, trust_env=False).raise_for_status().json()
    client = generated(document, tmp_path)
    version = orm.version({"file": FILE, "a/b/deep": DEEP})
    base = orm.distribution(from_publication=False, repository_version=version)
    found = subprocess.run(
        [sys.executable, "-c", CALLS, instance.url, instance.password, base],
        env={**os.environ, "PYTHONPATH": str(client)},
        capture_output=True,
        text=True,
        timeout=590,
    )
    assert found.returncode == 0, found.stderr
    results = json.loads(found.stdout)
    assert {"core", "file"} <= set(results.pop("versions"))
    assert results == {
        "repositories": 1,
        "task": True,
        "content units": True,
        "file": FILE.decode(),
        "deep": DEEP.decode(),
        "range": FILE[:2].decode(),
        "info": len(FILE),
        "statuses": [200, 304, 412, 416, 404, 200],
        "root": ["a", "file"],
        "use": "core.openpgp",
        "directory": ["deep"],
        "index": True,
        "ready": True,
        "schema": "3.1.0",
    }


def test_content_changes_no_name_of_the_generated_client(instance: Instance, tmp_path):
    clients = []
    for is_on in ("true", "false"):
        with serving(instance, PULP_CONTENT_STAR_IN_API_SCHEMA=is_on) as server:
            url = f"{server.url}/pulp/api/v3/docs/api.json?bindings"
            document = httpx.get(url, trust_env=False).raise_for_status().json()
        document["servers"] = [{"url": "http://pulp.example"}]
        folder = tmp_path / is_on
        folder.mkdir()
        clients.append(words_of(generated(document, folder)))
    with_content, without = clients
    assert without.items() <= with_content.items()
    added = with_content.keys() - without.keys()
    assert added
    assert all(name.startswith("content_") for name in added), added
