"""SQL of directory listings; `directory.py` fills it in and runs it.

Placeholders in braces are filled in with SQL: `{in_range}` is the condition on paths, `{using}` the
order of an index on paths. Those of `%(...)s` are parameters.
"""

# Versions up to the listed one. Not joins with a version and its number: the planner expects a
# single content unit from these, and then plans a nested loop.
VERSIONS = """
    SELECT pulp_id FROM core_repositoryversion
    WHERE repository_id = %(repository)s AND number <= %(number)s
"""

# Content of the version, with the time of its addition.
MEMBERS = f"""
    SELECT rc.content_id, rc.pulp_created
    FROM core_repositorycontent rc
    WHERE rc.repository_id = %(repository)s
      AND rc.version_added_id IN ({VERSIONS})
      AND (rc.version_removed_id IS NULL OR rc.version_removed_id NOT IN ({VERSIONS}))
"""  # noqa: S608 - only text of this module

# The same for one content unit, which reads two rows regardless of the number of versions.
ONE_MEMBER = """(
    SELECT rc.pulp_created FROM core_repositorycontent rc
    WHERE rc.repository_id = %(repository)s AND rc.content_id = ca.content_id
      AND (SELECT number FROM core_repositoryversion WHERE pulp_id = rc.version_added_id)
          <= %(number)s
      AND (rc.version_removed_id IS NULL OR
           (SELECT number FROM core_repositoryversion WHERE pulp_id = rc.version_removed_id)
           > %(number)s)
    LIMIT 1
)"""

PUBLISHED = f"""
    SELECT pa.relative_path, ca.pulp_id, ca.artifact_id,
           coalesce(member.pulp_created, pa.pulp_created) AS modified
    FROM core_publishedartifact pa
    JOIN core_contentartifact ca ON ca.pulp_id = pa.content_artifact_id
    LEFT JOIN ({MEMBERS}) AS member USING (content_id)
    WHERE pa.publication_id = %(publication)s AND {{in_range}}
"""  # noqa: S608

CONTAINED = f"""
    SELECT ca.relative_path, ca.pulp_id, ca.artifact_id, member.pulp_created AS modified
    FROM core_contentartifact ca JOIN ({MEMBERS}) AS member USING (content_id)
    WHERE {{in_range}}
"""  # noqa: S608

# The same in the order of the index on paths: the planner cannot reorder lateral joins. Limits are
# subselects so that it does not know them and expects a fraction of all rows; joining all rows and
# sorting them would cost much more.
FIRST_PUBLISHED = f"""
    SELECT pa.relative_path, ca.pulp_id, ca.artifact_id,
           coalesce(member.pulp_created, pa.pulp_created) AS modified
    FROM core_publishedartifact pa
    CROSS JOIN LATERAL (
        SELECT * FROM core_contentartifact WHERE pulp_id = pa.content_artifact_id LIMIT 1
    ) AS ca
    LEFT JOIN LATERAL {ONE_MEMBER} AS member ON TRUE
    WHERE pa.publication_id = %(publication)s AND {{in_range}}
    ORDER BY relative_path {{using}} LIMIT (SELECT %(rows)s)
"""  # noqa: S608
FIRST_CONTAINED = f"""
    SELECT * FROM (
        SELECT ca.relative_path, ca.pulp_id, ca.artifact_id, member.pulp_created AS modified
        FROM core_contentartifact ca LEFT JOIN LATERAL {ONE_MEMBER} AS member ON TRUE
        WHERE {{in_range}}
        ORDER BY relative_path {{using}} LIMIT (SELECT %(paths)s)
    ) AS path
    WHERE modified IS NOT NULL
    ORDER BY relative_path {{using}} LIMIT (SELECT %(rows)s)
"""  # noqa: S608

COUNT_PATHS = """
    SELECT count(*) FROM (
        SELECT FROM core_contentartifact WHERE {in_range} LIMIT %(paths)s
    ) AS path
"""

FIRST_PATH = """
    SELECT relative_path FROM core_publishedartifact
    WHERE publication_id = %(publication)s AND {in_range}
    ORDER BY relative_path {using} LIMIT 1
"""

FIRST_OF_EACH = """
    SELECT * FROM ({each}) AS row ORDER BY relative_path COLLATE "C" LIMIT %(rows)s
"""

# A path that continues after its segment makes a directory. Names sort by code point, as Python
# sorts, regardless of the collation of the database.
NAME = """
    (CASE strpos({rest}, '/') WHEN 0 THEN {rest} ELSE left({rest}, strpos({rest}, '/')) END)
"""

# Dates are selected in seconds: converting timestamps with microseconds to Python takes half the
# time of a large listing. Sizes are looked up only for files on the page; a file that is not saved
# has the size that its remotes announce.
GROUPED = f"""
    SELECT name, floor(extract(epoch FROM modified))::bigint, coalesce(
        (SELECT max(size) FROM core_artifact WHERE pulp_id = ANY(artifacts)),
        (SELECT max(size) FROM core_remoteartifact WHERE content_artifact_id = ANY(files))
    ), bounds.*
    FROM (
        SELECT name, max(modified) AS modified,
               array_agg(artifact_id) FILTER (WHERE right(name, 1) <> '/') AS artifacts,
               array_agg(pulp_id) FILTER (WHERE right(name, 1) <> '/') AS files
        FROM (SELECT *, {NAME.format(rest="rest")} COLLATE "C" AS name FROM (
            SELECT *, substr(relative_path, length(%(prefix)s) + 1) AS rest FROM entry
        ) AS below) AS row
        GROUP BY name
        ORDER BY name
        LIMIT %(limit)s
    ) AS listed CROSS JOIN bounds
    ORDER BY name
"""  # noqa: S608

BOUNDS = 'SELECT count(*), max(relative_path COLLATE "C") FROM entry'

# Index skip scan ("loose index scan") of a publication: each step finds the first path after all
# that are at or below the previous entry. `0` is the character after the slash.
SKIP_SCAN = """
    WITH RECURSIVE level (name) AS (
        {first}
        UNION ALL
        SELECT following.name
        FROM (
            SELECT %(prefix)s || CASE right(name, 1)
                WHEN '/' THEN left(name, -1) || '0' ELSE name || '\x01' END AS start
            FROM level
        ) AS step CROSS JOIN LATERAL ({following}) AS following
    )
    SELECT name FROM level LIMIT %(limit)s
"""
FIRST_NAME = f"""
    (SELECT {NAME.format(rest="rest")} AS name
     FROM (SELECT substr(relative_path, length(%(prefix)s) + 1) AS rest FROM ({{path}}) AS path)
          AS below)
"""  # noqa: S608

# Whether finding `ROWS` files of the version among all files would examine more rows than the whole
# version has. Its size is that of the array of content ids, 16 bytes each, which is not read.
IS_SPARSE = """
    SELECT coalesce(pg_column_size(content_ids) / 16, 0)::float ^ 2 < %(rows)s * (
        SELECT reltuples FROM pg_class WHERE oid = 'core_contentartifact'::regclass
    )
    FROM core_repositoryversion WHERE pulp_id = %(version)s
"""

# Whether `relative_path`, and so core's index on it, is in the order of code points. All locales of
# the built-in provider of PostgreSQL 17 are, which `pulp-star up` uses; before 15 the C library was
# the only provider.
IS_ORDERED = """
    SELECT attcollation = 'pg_catalog."default"'::regcollation
       AND CASE to_jsonb(pg_database) ->> 'datlocprovider'
           WHEN 'b' THEN TRUE WHEN 'i' THEN FALSE ELSE datcollate IN ('C', 'POSIX') END
    FROM pg_attribute, pg_database
    WHERE attrelid = 'core_contentartifact'::regclass AND attname = 'relative_path'
      AND datname = current_database()
"""

# Unlike a listing these read no dates and stop at the first row.
EXISTS_PUBLISHED = """
    EXISTS (
        SELECT FROM core_publishedartifact
        WHERE publication_id = %(publication)s AND {in_range}
    )
"""

# A large version is not joined with the range, since the planner may read all of it even for a
# small directory: the first paths of all repositories are looked up one by one; few ranges have
# more.
_EXISTS_JOINED = f"""
    EXISTS (
        SELECT FROM core_contentartifact JOIN ({MEMBERS}) AS member USING (content_id)
        WHERE {{in_range}}
    )
"""
EXISTS_CONTAINED = f"""
    CASE WHEN ({IS_SPARSE}) THEN {_EXISTS_JOINED}
    WHEN EXISTS (
        SELECT FROM (
            SELECT content_id FROM core_contentartifact WHERE {{in_range}} LIMIT %(paths)s
        ) AS ca
        WHERE EXISTS {ONE_MEMBER}
    ) THEN TRUE
    WHEN ({COUNT_PATHS}) = %(paths)s THEN {_EXISTS_JOINED}
    ELSE FALSE END
"""  # noqa: S608
