"""Print the oldest versions that pyproject.toml allows, as requirements: `name==floor`.

What has no floor is left to the installer. For `make audit-oldest`.
"""

import re
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
for requirement in [*project["dependencies"], *extras["s3"], *extras["azure"], *extras["google"]]:
    # Without extras, which constraints of pip cannot have.
    # Without extras, which constraints of pip cannot have.
    print(re.sub(r">=([\w.]+).*", r"==\1", re.sub(r"\[.*?\]", "", requirement)))
