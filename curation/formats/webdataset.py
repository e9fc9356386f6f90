"""WebDataset: tar files of ID.context.mp4, ID.target.mp4 and ID.json, the files of a pair one after the other."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..records import FILES, Pair

ABOUT = "WebDataset: tar files of ID.context.mp4, ID.target.mp4, ID.json"

PAIRS_A_TAR = 1000


def write(pairs: Sequence[Pair], folder: Path) -> None:
    for number in range(0, len(pairs), PAIRS_A_TAR):
        # A file that has another name as well, as exports link them, would be written as a link, which WebDataset leaves out.
        with tarfile.open(folder / f"{number // PAIRS_A_TAR:05}.tar", "w", dereference=True) as tar:
            for pair in pairs[number : number + PAIRS_A_TAR]:
                assert pair.context and pair.target
                # A dot would begin the ending: WebDataset's names are cut at the first one.
                name = pair.id.replace(".", "_")
                tar.add(pair.context, f"{name}.context.mp4")
                tar.add(pair.target, f"{name}.target.mp4")
                facts = {key: value for key, value in asdict(pair).items() if key not in FILES}
                content = json.dumps(facts, ensure_ascii=False).encode()
                entry = tarfile.TarInfo(f"{name}.json")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


def read(folder: Path) -> list[Pair]:
    """The videos stay in the tar files: context and target are TAR#MEMBER. Raises ValueError where there is none."""
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise ValueError(f"{folder} holds no tar file: name a folder of this format.")
    pairs = []
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    file = tar.extractfile(member)
                    assert file
                    name = member.name.removesuffix(".json")
                    ends = {role: f"{path}#{name}.{role}.mp4" for role in ("context", "target")}
                    try:
                        facts = json.loads(file.read())
                        pairs.append(Pair(**{**facts, "instructions": tuple(facts["instructions"]), **ends}))
                    except (ValueError, KeyError, TypeError):
                        raise ValueError(
                            f"{member.name} of {path} is no record of a pair: name a folder of this format."
                        ) from None
    return pairs
