from pulp_example.app.models import ExampleDistribution
from pulp_example.app.serializers import ExampleDistributionSerializer
from pulpcore.plugin.viewsets import DistributionViewSet


class ExampleDistributionViewSet(DistributionViewSet):
    endpoint_name = "example"
    queryset = ExampleDistribution.objects.all()
    serializer_class = ExampleDistributionSerializer
