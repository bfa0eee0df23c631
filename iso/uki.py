"""Puts files as sections behind a UEFI stub: uki.py STUB OUTPUT .name=FILE …"""

import subprocess
import sys

import pefile

stub, output, *parts = sys.argv[1:]
image = pefile.PE(stub, fast_load=True)
last = image.sections[-1]
align = image.OPTIONAL_HEADER.SectionAlignment
at = image.OPTIONAL_HEADER.ImageBase + last.VirtualAddress + last.Misc_VirtualSize
command = ["objcopy"]
for part in parts:
    name, file = part.split("=", 1)
    at = -(-at // align) * align
    command += ["--add-section", f"{name}={file}", "--change-section-vma", f"{name}={at:#x}"]
    with open(file, "rb") as content:
        at += len(content.read())
subprocess.run([*command, "-p", stub, output], check=True)
