"""Loads the model once and edits files, each to NAME_edited.mp4 in the present folder.

python edit.py "Make the video look like sunset" holiday.mp4 beach.mp4
"""

import sys
from pathlib import Path

from liveditor_isa.pipelines import Edit, ModelChoice, edit_file, load

prompt, *videos = sys.argv[1:]

# LIVEditor-tiny. LIVEditor-14B: ModelChoice(model="LIVEditor-14B"), a folder that `liveditor convert --to-folder` made.
pipe = load(ModelChoice())

for video in videos:
    try:
        path, facts = edit_file(pipe, Edit(video, prompt, frames=17), f"{Path(video).stem}_edited.mp4")
    except (ValueError, OSError) as error:  # bad input, or a full disk: the next file may do
        print(f"{video}: {error}", file=sys.stderr)
    else:
        print(f"{path}: {facts['frames']} frames in {facts['sampling_seconds']} s")
