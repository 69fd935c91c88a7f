"""The function of the triggers that notify content apps of changes, see `invalidation/triggers.py`.

`post_migrate` creates the triggers. Undoing the migration drops them together with the function.
"""

from django.db import migrations

CREATE_FUNCTION = """
CREATE OR REPLACE FUNCTION content_star_changed() RETURNS trigger LANGUAGE plpgsql AS $function$
DECLARE
    ids uuid[];
BEGIN
    BEGIN
        EXECUTE 'SELECT array_agg(id) FROM (SELECT id FROM ('
            || TG_ARGV[0] || ') AS found (id) LIMIT 101) AS some' INTO ids;
    EXCEPTION WHEN OTHERS THEN
        ids := ARRAY[NULL::uuid];
    END;
    IF array_position(ids, NULL) IS NOT NULL OR cardinality(ids) > 100 THEN
        PERFORM pg_notify('content_star', 'all');
    ELSIF ids IS NOT NULL THEN
        PERFORM pg_notify('content_star', array_to_string(ids, ' '));
    END IF;
    RETURN NULL;
END
$function$
"""

DROP_FUNCTION = "DROP FUNCTION IF EXISTS content_star_changed() CASCADE"  # and the triggers with it


class Migration(migrations.Migration):
    initial = True
    dependencies = ()
    operations = (migrations.RunSQL(CREATE_FUNCTION, DROP_FUNCTION),)
