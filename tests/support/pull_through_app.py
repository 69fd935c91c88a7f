"""The applications with pull-through in pulp_file, which lacks three methods for it.

No plugin with pull-through is installed for these tests; `tests/plugins_real` has some.
"""

from typing import Any

import pulpcore.routing

application = pulpcore.routing.application
content_application = pulpcore.routing.content_application

METADATA = ("/", ".html", ".json", ".xml", "PULP_MANIFEST")


def install() -> None:
    """Add pull-through to pulp_file in this process."""
    from pulp_file.app.models import FileContent, FileRemote, FileRepository

    from pulpcore.app.models import Distribution

    def content_type(remote: Any, path: str = "") -> type[FileContent] | None:
        return None if not path or path.endswith(METADATA) else FileContent

    def of_artifact(artifact: Any, path: str) -> Any:
        if path.endswith(".broken"):
            raise ValueError("not a file of this type")
        content = FileContent(relative_path=path, digest=artifact.sha256)
        if not path.endswith(".gem"):
            return content
        # As plugins whose content has several files, such as pulp_gem's.
        return content, {path: artifact, f"{path}spec": None}

    join = FileRemote.get_remote_artifact_url

    def url(remote: Any, path: str, request: Any = None) -> str | None:
        # As plugins that take the file's URL from the query, such as pulp_python.
        return join(remote, request.query.get("instead", path) if request else path)

    FileRemote.get_remote_artifact_url = url
    FileRemote.get_remote_artifact_content_type = content_type
    FileContent.init_from_artifact_and_relative_path = staticmethod(of_artifact)
    FileRepository.PULL_THROUGH_SUPPORTED = True
    Distribution.content_headers_for = lambda self, path: {"X-Plugin": str(len(path))}


install()


def upstream() -> None:
    """Run `pulpcore-content` with pull-through, with the arguments of the command line."""
    from pulpcore.content.entrypoint import main

    main()


if __name__ == "__main__":
    upstream()
