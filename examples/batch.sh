#!/usr/bin/env bash
# Edits all videos of a folder: batch.sh FOLDER PROMPT OUT [more options of `liveditor batch`]
# Run it again after whatever stopped it: it goes on where it was.
set -euo pipefail
folder=$(realpath "$1") prompt=$2 out=$3
shift 3

manifest=$(mktemp --suffix .jsonl)
trap 'rm -f "$manifest"' EXIT
python - "$folder" "$prompt" > "$manifest" <<'PYTHON'
import json
import sys
from pathlib import Path

folder, prompt = sys.argv[1:]
for video in sorted(Path(folder).glob("*.mp4")):
    print(json.dumps({"video": str(video), "prompt": prompt}))
PYTHON

liveditor batch "$manifest" --out "$out" "$@"
