from pulp_example.app.models import ExampleDistribution
from pulpcore.plugin.serializers import DistributionSerializer


class ExampleDistributionSerializer(DistributionSerializer):
    class Meta:
        fields = DistributionSerializer.Meta.fields
        model = ExampleDistribution
