"""What an image holds: Debian's packages and the crates of the program. iso/sbom.py and iso/notices.py write it down."""

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

TARGET = "x86_64-unknown-linux-gnu"
# Parts of these are on the medium, beside the root; they come from the machine that builds.
LOADERS = ["grub-pc-bin", "systemd-boot-efi"]


class Package:
    """A Debian package; `tree` is where its files are."""

    def __init__(self, tree, name, version, architecture, digest=None):
        self.tree, self.name, self.version, self.architecture, self.digest = tree, name, version, architecture, digest
        self.source = f"{name} {version}"
        self.built_using = None

    def copyright(self):
        folder = followed(self.tree, self.tree / "usr/share/doc" / self.name)
        file = followed(self.tree, folder / "copyright")
        return file.read_bytes() if file.is_file() else None


def followed(tree, path):
    """Where a link of the tree leads, which is never out of it: packages of one source share a folder that way."""
    for _ in range(4):
        if not path.is_symlink():
            break
        to = os.readlink(path)
        path = tree / to.lstrip("/") if to.startswith("/") else path.parent / to
    return path


def records(tree):
    """dpkg's own records of the tree, by name."""
    found = {}
    for record in (tree / "var/lib/dpkg/status").read_text(encoding="utf-8").split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", record, re.MULTILINE))
        if "Package" in fields:
            found[fields["Package"]] = fields
    return found


def debian(tree, manifest):
    packages = [Package(tree, *line.split()) for line in manifest.read_text(encoding="utf-8").splitlines()]
    here = Path("/")
    for name in LOADERS:
        fields = records(here)[name]
        packages.append(Package(here, name, fields["Version"], fields["Architecture"]))
    for of in tree, here:
        known = records(of)
        for package in (package for package in packages if package.tree is of):
            fields = known[package.name]
            # `Source: name (version)`, each part only where it is another one.
            name, _, version = fields.get("Source", package.name).partition(" ")
            package.source = f"{name} {version.strip('()') or package.version}"
            package.built_using = fields.get("Built-Using") or fields.get("Static-Built-Using")
    return packages


class Crate:
    def __init__(self, package, checksum):
        self.name, self.version, self.checksum = package["name"], package["version"], checksum
        # Crates of other people come from crates.io; ours are nowhere but in our source.
        self.ours = package["source"] is None
        self.license = re.sub(r"\s*/\s*", " OR ", package["license"] or "") or None
        self.folder = Path(package["manifest_path"]).parent
        self.needs, self.needs_to_build = [], []

    def texts(self):
        """Its licences and notices, also those of foreign code that it holds."""
        if self.ours:
            return [Path("LICENSE")]
        name = re.compile(r"(un)?licen[sc]e|copying|notice|copyright", re.IGNORECASE)
        files = (file for file in self.folder.rglob("*") if name.match(file.name) and file.is_file())
        return sorted(file for file in files if file.suffix not in (".toml", ".rs", ".c", ".h", ".json", ".yml"))


def cargo(*words):
    done = subprocess.run(["cargo", *words], stdout=subprocess.PIPE, check=True, encoding="utf-8")
    return done.stdout


def crates():
    """Those that the program is built of, by name and version."""
    # With the features of the program alone: the records below know those of all crates and tests together, and so
    # crates that no line is compiled of.
    lines = cargo("tree", "--locked", "--package", "elpis", "--edges", "normal,build", "--target", TARGET,
                  "--prefix", "none", "--format", "{p}").splitlines()
    built = {tuple(re.match(r"(\S+) v(\S+)", line).groups()) for line in lines if line}
    data = json.loads(cargo("metadata", "--locked", "--format-version", "1", "--filter-platform", TARGET))
    lock = Path("Cargo.lock").read_text(encoding="utf-8")
    checksums = {(name, version): checksum for name, version, checksum in re.findall(
        r'^name = "(.*)"\nversion = "(.*)"\nsource = ".*"\nchecksum = "(.*)"$', lock, re.MULTILINE)}
    found = {}
    for package in data["packages"]:
        key = package["name"], package["version"]
        if key in built:
            found[package["id"]] = Crate(package, checksums.get(key))
    for node in data["resolve"]["nodes"]:
        of = found.get(node["id"])
        for need in node["deps"] if of else []:
            kinds = {kind["kind"] for kind in need["dep_kinds"]}
            crate = found.get(need["pkg"])
            if crate and None in kinds:
                of.needs.append(crate)
            elif crate and "build" in kinds:
                of.needs_to_build.append(crate)
    missing = built - {(crate.name, crate.version) for crate in found.values()}
    if missing:
        raise SystemExit(f"iso/inside.py: cargo's records lack {sorted(missing)}")
    return sorted(found.values(), key=lambda crate: (crate.name, crate.version))


def sha256(file):
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
