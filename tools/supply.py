"""What is installed, from constraints.txt: files with hashes, licences, and a bill of materials.

make requirements | licences | sbom
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD, ALL = ROOT / "requirements" / "build.txt", ROOT / "requirements" / "all.txt"
LICENCES = ROOT / "docs" / "licences.md"
BUILDERS = ("setuptools", "wheel")
"""What builds the packages that are published as source only: installed before them, from a file of its own."""
EXEMPT = ("torch", "torchvision", "triton", "nvidia-", "cuda-")
"""Names and beginnings of names that have no hash: torch's builds differ by accelerator and come from other places."""
LEFT_OUT = {
    "distance": "GPL; OCRBench v2's table distance",
    "levenshtein": "GPL-2.0-or-later; ChartX, OmniDocBench, OCRBench v2",
    "polygon3": "LGPL, with parts that are free for non-commercial use only; nothing of VLMEvalKit 0.0.20 imports it",
}
"""What ms-vlmeval depends on and `make setup` does not install: package -> licence; what needs it."""
HEADER = """\
# Written by `make requirements` from pyproject.toml and constraints.txt: sha256 of every file that the registry has of
# each package. Installed with --require-hashes --no-deps. Not here: torch, torchvision and what comes with them
# (triton, nvidia-*, cuda-*), whose builds differ by accelerator; and {left} (docs/licences.md).
"""


def pinned(text: str) -> dict[str, str]:
    """Name as the registry compares it -> version, of a file of pins."""
    found = re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def exempt(name: str) -> bool:
    return any(name == given or (given.endswith("-") and name.startswith(given)) for given in EXEMPT)


def requirements(uv: str) -> None:
    """Resolve with uv for all platforms, and write both files."""
    BUILD.parent.mkdir(exist_ok=True)
    options = ["--generate-hashes", "--universal", "--python-version=3.11", "--no-header", "--no-annotate", "--quiet"]
    for file, sources, given in ((BUILD, ["-"], "\n".join(BUILDERS)), (ALL, ["pyproject.toml", "--extra=dev"], "")):
        command = [uv, "pip", "compile", *sources, "-c", "constraints.txt", *options]
        text = subprocess.run(command, cwd=ROOT, input=given, check=True, capture_output=True, text=True).stdout
        blocks = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
        named = [(name, block) for block in blocks for name in pinned(block)]
        kept = [block for name, block in named if name not in LEFT_OUT and not exempt(name)]
        file.write_text(HEADER.format(left=", ".join(LEFT_OUT)) + "".join(kept), encoding="utf-8")


def licence(name: str) -> str:
    """A package's licence as its own metadata says it."""
    try:
        told = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return "not installed on this platform"
    classified = [c.split(" :: ")[-1] for c in told.get_all("Classifier") or [] if c.startswith("License ::")]
    line = (told.get("License") or "").strip().partition("\n")[0][:60].replace("UNKNOWN", "")
    return told.get("License-Expression") or ", ".join(classified) or line or licence_file(name)


def licence_file(name: str) -> str:
    """The licence that the file beside the metadata names first."""
    for file in metadata.files(name) or ():
        if file.name.upper().startswith(("LICENSE", "LICENCE", "COPYING")):
            named = re.search(r"(Apache|MIT|BSD|Mozilla Public|GNU [A-Z ]*) (License|style)", file.read_text(), re.I)
            return f"{named[0]} (its file)" if named else "a text of its own"
    return "not said"


def installed() -> dict[str, str]:
    """All third-party packages of an install, torch and torchvision included: name -> version."""
    found = pinned(ALL.read_text(encoding="utf-8")) | pinned(BUILD.read_text(encoding="utf-8"))
    pins = pinned((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    return dict(sorted((found | {name: pins[name] for name in ("torch", "torchvision")}).items()))


def licences() -> None:
    left = "".join(f"| {name} | {why.replace('; ', ' | ')} |\n" for name, why in LEFT_OUT.items())
    rows = "".join(f"| {name} | {version} | {licence(name)} |\n" for name, version in installed().items())
    LICENCES.write_text(PAGE.format(left=left, rows=rows), encoding="utf-8")


def sbom(out: Path) -> None:
    """CycloneDX 1.6, JSON."""
    project = metadata.metadata("armor-eval")
    main = {"type": "application", "name": project["Name"], "version": project["Version"], "bom-ref": project["Name"]}
    components = [
        {
            "type": "library",
            "name": name,
            "version": version,
            "bom-ref": f"pkg:pypi/{name}@{version}",
            "purl": f"pkg:pypi/{name}@{version}",
            "licenses": [{"license": {"name": licence(name)}}],
        }
        for name, version in installed().items()
    ]
    bom = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "metadata": {"component": main}}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(bom | {"components": components}, indent=1) + "\n", encoding="utf-8")


PAGE = """\
# What is installed, and under which licence

Written by `make licences`: each package's licence as its own metadata says it, else as the file that
comes with it does ("its file"). ARMOR itself is Apache-2.0.

## How it is installed

`make setup` installs `requirements/build.txt` (what builds packages that are published as source) and
`requirements/all.txt` with `--require-hashes --no-deps`: a file that is not one of those that the registry had when
the pins were taken is refused. Then torch and torchvision by version only - their builds differ by accelerator and
come from other places, so they and what comes with torch (triton, `nvidia-*`, `cuda-*`; NVIDIA's under NVIDIA's own
terms) have no hash here - and the project itself with `--no-deps -e .`. `pip install armor-eval` from a wheel follows
VLMEvalKit's metadata instead, and so installs what is left out below.

`make requirements` writes both files anew from `pyproject.toml` and `constraints.txt`, whose pins are kept (no registry
address in them);
`make audit` asks pip-audit for known holes, and fails where its database cannot be reached or lacks a package (it
could not be reached where this was written: no audit stands behind this release); `make sbom` writes CycloneDX JSON
to `runs/sbom.json`.

A checkpoint's own Python is never run: transformers and diffusers are told so at every load
(`tests/models/test_remote_code.py`), and only `--trust-remote-code` says otherwise, for `hf:` models.

## Left out

VLMEvalKit (`ms-vlmeval`) depends on these; `make setup` leaves them out, and `pip check` says so. VLMEvalKit is
imported with stand-ins for them (`armor_eval/vlmevalkit/left_out.py`): none of the benchmarks declared here needs
them, and a benchmark that does says which to install. Who passes the whole on with them is bound by their terms.

| package | licence | what needs it |
|---|---|---|
{left}
CairoSVG and num2words are LGPL: installed as they are, imported by VLMEvalKit, not changed and not copied.

## Installed

| package | version | licence |
|---|---|---|
{rows}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("requirements", "licences", "sbom"))
    parser.add_argument("--uv", default="uv", help="uv's program")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "sbom.json")
    given = parser.parse_args()
    {"requirements": lambda: requirements(given.uv), "licences": licences, "sbom": lambda: sbom(given.out)}[
        given.what
    ]()


if __name__ == "__main__":
    main()
