"""Print the oldest versions that pyproject.toml allows, as requirements: `name==floor`.

For `make test-oldest` and `make audit-oldest`. Tools of the extras `dev` and `bench` have no floor.
"""

import re
import tomllib
from pathlib import Path

EXTRAS = ("s3", "azure", "google", "cli", "embedded")

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
optional = [each for extra in EXTRAS for each in project["optional-dependencies"][extra]]
floors = {}
for requirement in [*project["dependencies"], *optional]:
    if not requirement.startswith(project["name"]):
        # Without extras, which constraints of pip cannot have.
        name, versions = re.sub(r"\[.*?\]", "", requirement).split(">=")
        floors[name] = versions.split(",")[0]
for name, floor in floors.items():
    print(f"{name}=={floor}")
