"""Installs this pack as its pages say, once for each extra, into environments of their own, and runs there what the pages print.

python scripts/fresh_installs.py [--extras diffusers serve ...] [--out FILE]

Each environment is new, lies outside this folder, and is removed afterwards. It gets PyTorch, which is gigabytes, and this pack's wheel
with one extra. Then the script runs the blocks of the pages about this extra, in order, and commands of other extras, which must name
in one sentence the extra to install. `image` installs by the Dockerfile's lines instead of the pages'. A FILE that exists keeps its rows
of other extras.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from datetime import date
from pathlib import Path

from documentation import Block, blocks_of, write_files_of_a_reader
from matrix import build_wheel
from setup import ROOT

PAGES_OF = {
    "": ["README.md"],
    "diffusers": ["docs/headless.md", "docs/load-once.md"],
    "batch": ["README.md", "docs/headless.md"],
    "serve": ["docs/serve.md"],
    "data": ["docs/data.md"],
    "image": ["README.md", "docs/serve.md"],
}
"""By extra, the pages that tell of it."""

BEYOND = {"": r"diffusers|liveditor \w", "diffusers": r"liveditor batch"}
"""Blocks of theirs that want another extra."""

ALSO = {
    "": ["liveditor --version", "liveditor --help", "liveditor convert liveditor_ckpt.bin --dtype bf16"],
    "evaluation": [
        "liveditor evaluate score items.jsonl --run run --metrics psnr_source ssim_source",
        "liveditor evaluate report run",
    ],
}
"""Commands beside the pages' blocks."""

LACKING = {
    "": {
        "liveditor edit holiday.mp4 x": "diffusers",
        "liveditor batch clips.jsonl --out b": "batch",
        "liveditor serve": "serve",
        "liveditor data gates": "data",
    },
    "diffusers": {"liveditor batch clips.jsonl --out b": "batch", "liveditor serve": "serve"},
    "batch": {"liveditor serve": "serve"},
    "serve": {"liveditor batch clips.jsonl --out b": "batch"},
}
"""Commands that must fail, and the extra that they must name."""

EXTRAS = ("", "diffusers", "batch", "serve", "evaluation", "data", "image")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extras", nargs="+", choices=EXTRAS, default=EXTRAS, metavar="EXTRA", help='"" is none')
    parser.add_argument("--out", type=Path, default=ROOT / f"benchmarks/results/fresh-installs-{date.today()}.json")
    options = parser.parse_args()
    installs = json.loads(options.out.read_text(encoding="utf-8"))["installs"] if options.out.exists() else {}
    with tempfile.TemporaryDirectory(prefix="wheel-") as folder:
        wheel = build_wheel(Path(folder))
        for extra in options.extras:
            with tempfile.TemporaryDirectory(prefix="fresh-") as folder:
                installs[extra or "none"] = installed(extra, wheel, Path(folder))
            about = {"command": "python scripts/fresh_installs.py", "python": sys.version.split()[0], "installs": installs}
            options.out.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    failed = [row for extra in options.extras for row in installs[extra or "none"]["rows"] if row["fault"]]
    print(options.out, f"{len(failed)} failed", sep=": ")
    return bool(failed)


def installed(extra: str, wheel: Path, folder: Path) -> dict:
    """The packages of one installation, and a row for each of its pages and commands; fault: None where all ended as it should."""
    venv.create(folder / "env", with_pip=True)
    shell = Shell(folder / "env", folder / "place")
    for line in from_dockerfile() if extra == "image" else ["pip install torch torchvision", f'pip install ".[{extra}]"']:
        shell.check(line.replace("[]", "").replace('"."', f'"{wheel}"').replace('".[', f'"{wheel}['))
    write_files_of_a_reader(shell.place)
    (shell.place / "items.jsonl").write_text(
        '{"source": "beach.mp4", "instruction": "Let it snow", "edit": "beach.mp4"}\n', encoding="utf-8"
    )
    pages = {page: [block for block in blocks_of(ROOT / page) if fits(block, extra)] for page in PAGES_OF.get(extra, ())}
    rows = [{"ran": f"{page}: {len(blocks)} blocks", "fault": shell.run_page(blocks)} for page, blocks in pages.items()]
    rows += [{"ran": line, "fault": shell.fault(line)} for line in ALSO.get(extra, ())]
    rows += [
        {"ran": f"{line}, which lacks {it}", "fault": shell.names(line, it)} for line, it in LACKING.get(extra, {}).items()
    ]
    for row in rows:
        print(f"[{extra}] {row['ran']}: {row['fault'] or 'good'}", flush=True)
    packages = json.loads(shell.check("pip list --format json").stdout)
    return {
        "packages": {each["name"]: each["version"] for each in packages if not each["name"].startswith("nvidia")},
        "rows": rows,
    }


def from_dockerfile() -> list[str]:
    """What its image installs."""
    return re.findall(r"^RUN (pip install .*)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.M)


def fits(block: Block, extra: str) -> bool:
    beyond = BEYOND.get(extra)
    return (block.runs or block.language == "jsonl") and not (beyond and re.search(beyond, block.source))


class Shell:
    """Of somebody who has activated an environment and works in a folder of their own."""

    def __init__(self, environment: Path, place: Path):
        self.place = place
        place.mkdir()
        (place / "requirements").symlink_to(ROOT / "requirements")
        path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        self._environment = kept | {"PATH": path}

    def _run(self, *command: str, given: str | None = None) -> subprocess.CompletedProcess:
        return subprocess.run(
            command, cwd=self.place, env=self._environment, input=given, capture_output=True, encoding="utf-8", check=False
        )

    def line(self, line: str) -> subprocess.CompletedProcess:
        return self._run("bash", "-c", line)

    def check(self, line: str) -> subprocess.CompletedProcess:
        """Raises RuntimeError."""
        done = self.line(line)
        if done.returncode:
            raise RuntimeError(f"{line}: {done.stderr}")
        return done

    def fault(self, line: str) -> str | None:
        done = self.line(line)
        return done.stderr.strip() or f"status {done.returncode}" if done.returncode else None

    def names(self, line: str, extra: str) -> str | None:
        """None where the command fails with one sentence about that extra."""
        done = self.line(line)
        said = done.stderr.strip()
        return (
            None if done.returncode == 2 and f"[{extra}]" in said and "\n" not in said else f"status {done.returncode}: {said}"
        )

    def run_page(self, blocks: list[Block]) -> str | None:
        """None where each ends well."""
        given = json.dumps([(block.name, block.language, block.source) for block in blocks])
        done = self._run("python", str(ROOT / "scripts/run_blocks.py"), given=given)
        return done.stderr.strip() if done.returncode else None


if __name__ == "__main__":
    sys.exit(main())
