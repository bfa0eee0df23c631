"""Licences and notices of what is inside an image, each text once: notices.py TREE MANIFEST"""

import os
import sys
from pathlib import Path

from inside import crates, debian

HEAD = """Elpis {version}: licences and notices

Elpis is free software under the GNU General Public License, version 2 or any later one. This image holds parts under the
Apache License 2.0 too, and is therefore given under version 3 of it. There is no warranty.

SOURCE
Elpis: its source goes with each release, in the same place as the image. Whoever got the image without it may ask the one
who gave it to them, within three years, for the complete source on a usual medium, for no more than what the copy costs.
The same offer holds for all parts below whose licence asks for it.
Debian's packages: as Debian built them, some of their files left out. The source of each, by the name and version that are
written here, is in Debian's archive: https://deb.debian.org/debian, https://deb.debian.org/debian-security, and for older
versions https://snapshot.debian.org.
Crates: unchanged, https://crates.io, by the name and version that are written here.
"""
LINE = "=" * 100


def title(words):
    write(f"\n{LINE}\n{words}\n{LINE}\n")


def write(text):
    sys.stdout.buffer.write(text if isinstance(text, bytes) else text.encode())


def grouped(pairs):
    """Texts in the order of the first who has each, with all who have it."""
    found = {}
    for who, text in pairs:
        holders = found.setdefault(text.strip(b"\r\n"), [])
        if who not in holders:
            holders.append(who)
    return found.items()


def texts(pairs):
    for text, holders in grouped(pairs):
        write("\n---- " + ", ".join(holders) + "\n\n")
        write(text + b"\n")


def main(tree, manifest):
    packages, parts = debian(tree, manifest), crates()
    write(HEAD.format(version=os.environ["ELPIS_VERSION"]))
    title("DEBIAN PACKAGES: name version (source, where it has another name or version)")
    for package in packages:
        source = f" ({package.source})" if package.source != f"{package.name} {package.version}" else ""
        using = f", with parts of {package.built_using}" if package.built_using else ""
        write(f"{package.name} {package.version}{source}{using}\n")
    title("CRATES OF THE PROGRAM: name version, licence")
    for crate in parts:
        write(f"{crate.name} {crate.version}, {crate.license or 'see its text'}\n")

    title("TEXTS OF DEBIAN PACKAGES")
    found = [(package.name, package.copyright()) for package in packages]
    missing = [name for name, text in found if text is None]
    if missing:
        raise SystemExit(f"iso/notices.py: no copyright file of {' '.join(missing)}")
    texts(found)
    title("LICENCES THAT THE TEXTS OF DEBIAN PACKAGES NAME BY A FILE, /usr/share/common-licenses")
    common = sorted((tree / "usr/share/common-licenses").iterdir())
    texts((file.name, file.read_bytes()) for file in common)

    title("TEXTS OF CRATES")
    bare = [f"{crate.name} {crate.version}" for crate in parts if not crate.texts()]
    write(f"\nWithout a text of their own, under the licences named above: {', '.join(bare)}\n")
    texts((f"{crate.name} {crate.version}", file.read_bytes()) for crate in parts for file in crate.texts())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
