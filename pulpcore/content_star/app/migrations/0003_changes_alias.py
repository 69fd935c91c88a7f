"""The trigger function with an alias that PostgreSQL does not reserve.

`some` names an operator: the query of 0001 failed, and each statement notified of all rows.
"""

from django.db import migrations

REPLACE_FUNCTION = """
CREATE OR REPLACE FUNCTION content_star_changed() RETURNS trigger LANGUAGE plpgsql AS $function$
DECLARE
    ids uuid[];
BEGIN
    BEGIN
        EXECUTE 'SELECT array_agg(id) FROM (SELECT id FROM ('
            || TG_ARGV[0] || ') AS found (id) LIMIT 101) AS few' INTO ids;
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


class Migration(migrations.Migration):
    dependencies = (("content_star", "0002_prefixes"),)
    # Undone by 0001, which drops the function.
    operations = (migrations.RunSQL(REPLACE_FUNCTION, migrations.RunSQL.noop),)
