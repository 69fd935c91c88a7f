"""Applications that serve with pull-through in pulp_file, as plugins that have it do it.

Real plugins with pull-through are not installed for tests; pulp_file lacks three methods to be one.
"""

from typing import Any

import pulpcore.routing

application = pulpcore.routing.application
content_application = pulpcore.routing.content_application

METADATA = ("/", ".html", ".json", ".xml", "PULP_MANIFEST")


def install() -> None:
    """Give pulp_file pull-through, in this process."""
    from pulp_file.app.models import FileContent, FileRemote, FileRepository

    from pulpcore.app.models import Distribution

    def content_type(remote: Any, path: str = "") -> type[FileContent] | None:
        return None if not path or path.endswith(METADATA) else FileContent

    def of_artifact(artifact: Any, path: str) -> Any:
        if path.endswith(".broken"):
            raise ValueError("This is no such file.")
        content = FileContent(relative_path=path, digest=artifact.sha256)
        if not path.endswith(".gem"):
            return content
        # Some plugins know of further files by the first one.
        return content, {path: artifact, f"{path}spec": None}

    join = FileRemote.get_remote_artifact_url

    def url(remote: Any, path: str, request: Any = None) -> str | None:
        # Some plugins are told in the query what to ask for.
        return join(remote, request.query.get("instead", path) if request else path)

    FileRemote.get_remote_artifact_url = url
    FileRemote.get_remote_artifact_content_type = content_type
    FileContent.init_from_artifact_and_relative_path = staticmethod(of_artifact)
    FileRepository.PULL_THROUGH_SUPPORTED = True
    Distribution.content_headers_for = lambda self, path: {"X-Plugin": str(len(path))}


install()


def upstream() -> None:
    """Run `pulpcore-content` with it, on the arguments of the command line."""
    from pulpcore.content.entrypoint import main

    main()


if __name__ == "__main__":
    upstream()
