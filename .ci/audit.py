"""Ask for known vulnerabilities of packages, and fail for those that are found.

    python .ci/audit.py                     those installed beside this Python
    python .ci/audit.py -r FILE             those of a requirements file, and what they need

A service that cannot be asked is no finding: it is said, and the exit code is 0. With
`AUDIT_REQUIRED=1` it is 1.
"""

import json
import os
import subprocess
import sys

OURS = "pulp-content-star"


def main() -> int:
    command = [sys.executable, "-m", "pip_audit", "--format=json", "--progress-spinner=off"]
    done = subprocess.run([*command, *sys.argv[1:]], capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return unknown(done.stderr.strip().splitlines()[-1:])
    found = [each for each in packages if each.get("vulns")]
    for package in found:
        for each in package["vulns"]:
            names = ", ".join([each["id"], *each["aliases"]])
            fixed = ", ".join(each["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {names}; fixed in {fixed}")
    if found:
        return 1
    # Ours is on no index.
    skipped = [p["name"] for p in packages if "skip_reason" in p and p["name"] != OURS]
    if skipped:
        return unknown([f"{len(skipped)} packages are not known to it, such as {skipped[0]}"])
    print(f"No known vulnerability in {len(packages)} packages.")
    return 0


def unknown(reason: list[str]) -> int:
    print("NOT AUDITED, the vulnerability service has not answered:", *reason, file=sys.stderr)
    return 1 if os.environ.get("AUDIT_REQUIRED") else 0


if __name__ == "__main__":
    sys.exit(main())
