from aiohttp.web import json_response
from django.conf import settings
from django.db import models

from pulpcore.plugin.models import BaseModel, ContentArtifact, Distribution


class ExampleDistribution(Distribution):
    """Serves what is in a repository of any kind."""

    TYPE = "example"

    class Meta:
        default_related_name = "%(app_label)s_%(model_name)s"

    def files(self):
        """Describe the files that are served."""
        _, version, _ = self.get_repository_publication_and_version()
        if version is None:
            return []
        found = ContentArtifact.objects.filter(content__in=version.content).order_by(
            "relative_path"
        )
        return list(found.values("relative_path", "artifact__sha256", "artifact__size"))

    # For `pulpcore-content`.

    def content_handler(self, path):
        return json_response({"files": self.files()}) if path == "api/files" else None

    def content_headers_for(self, path):
        return {"X-Example": self.name}


class Note(BaseModel):
    """A user's note about a file of a distribution."""

    distribution = models.ForeignKey(
        ExampleDistribution, on_delete=models.CASCADE, related_name="notes"
    )
    path = models.TextField()
    text = models.TextField()
    author = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)

    class Meta:
        unique_together = ("distribution", "path")
