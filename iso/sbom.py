"""What is inside an image, as SPDX 2.3: sbom.py TREE MANIFEST

Nothing in it depends on the hour or the folder: the same image has the same list."""

import hashlib
import json
import os
import re
import sys
import uuid
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote

from inside import crates, debian, sha256

UNKNOWN = "NOASSERTION"


def entry(kind, name, version, **more):
    """A package; a name of our own for it may hold letters, digits, dots and dashes."""
    return {
        "SPDXID": f"SPDXRef-{kind}-" + re.sub(r"[^A-Za-z0-9.-]", "-", name),
        "name": name,
        "versionInfo": version,
        "supplier": UNKNOWN,
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": False,
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": UNKNOWN,
        "copyrightText": UNKNOWN,
    } | more


def checksum(digest):
    return [{"algorithm": "SHA256", "checksumValue": digest}]


def purl(locator):
    return [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": locator}]


def of_debian(package):
    at = f"pkg:deb/debian/{quote(package.name, safe='')}@{quote(package.version, safe=':')}"
    more = {"checksums": checksum(package.digest)} if package.digest else {}
    built_using = f", with parts of {package.built_using}" if package.built_using else ""
    return entry("deb", package.name, package.version, supplier="Organization: Debian",
                 sourceInfo=f"built from Debian's source package {package.source}{built_using}",
                 externalRefs=purl(f"{at}?arch={package.architecture}&distro=bookworm"), **more)


def of_crate(crate):
    more = {"licenseDeclared": crate.license} if crate.license else {}
    if not crate.ours:
        more["externalRefs"] = purl(f"pkg:cargo/{crate.name}@{quote(crate.version, safe=':')}")
        more["downloadLocation"] = f"https://crates.io/api/v1/crates/{crate.name}/{crate.version}/download"
    if crate.checksum:
        more["checksums"] = checksum(crate.checksum)
    made = entry("crate", f"{crate.name}-{crate.version}", crate.version, **more)
    return made | {"name": crate.name}


def main(tree, manifest):
    version = os.environ["ELPIS_VERSION"]
    image = entry("image", "elpis-image", version, primaryPackagePurpose="OPERATING-SYSTEM")
    packages, relations = [image], []

    def relate(one, kind, other):
        relations.append({"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other})

    relate("SPDXRef-DOCUMENT", "DESCRIBES", image["SPDXID"])
    for package in debian(tree, manifest):
        packages.append(of_debian(package))
        relate(image["SPDXID"], "CONTAINS", packages[-1]["SPDXID"])
    entries = {crate: of_crate(crate) for crate in crates()}
    for crate, made in entries.items():
        if crate.name == "elpis":
            made["primaryPackagePurpose"] = "APPLICATION"
            # Of the file in the image, /usr/bin/elpis.
            made["checksums"] = checksum(sha256(tree / "usr/bin/elpis"))
            relate(image["SPDXID"], "CONTAINS", made["SPDXID"])
        packages.append(made)
        for other in crate.needs:
            relate(made["SPDXID"], "DEPENDS_ON", entries[other]["SPDXID"])
        for other in crate.needs_to_build:
            relate(entries[other]["SPDXID"], "BUILD_DEPENDENCY_OF", made["SPDXID"])

    names = [package["SPDXID"] for package in packages]
    if len(set(names)) != len(names):
        raise SystemExit("iso/sbom.py: two packages have one name")
    created = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), timezone.utc)
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"elpis-{version}",
        "documentNamespace": "",
        "creationInfo": {
            "created": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": [f"Tool: elpis-iso-{version}"],
        },
        "packages": packages,
        "relationships": relations,
    }
    content = hashlib.sha256(json.dumps(document).encode()).hexdigest()
    name = uuid.uuid5(uuid.NAMESPACE_URL, content)
    document["documentNamespace"] = f"https://spdx.org/spdxdocs/elpis-{version}-{name}"
    json.dump(document, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
