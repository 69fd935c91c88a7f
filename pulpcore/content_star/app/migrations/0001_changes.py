"""The function of the triggers that tell content apps of changes; see `cache/triggers.py`.

`post_migrate` makes the triggers. Undoing the migration drops them together with the function.
"""

from django.db import migrations

from pulpcore.content_star.cache.triggers import CREATE_FUNCTION, DROP_FUNCTION


class Migration(migrations.Migration):
    initial = True
    dependencies = ()
    operations = (migrations.RunSQL(CREATE_FUNCTION, DROP_FUNCTION),)
