"""A client of `liveditor serve`: python client.py http://127.0.0.1:8000 holiday.mp4 "Make it night" night.mp4"""

import argparse
import os
import sys
import time
from pathlib import Path

import httpx


def edit(client: httpx.Client, video: str, prompt: str, output: str):
    with open(video, "rb") as file:
        job = client.post("/v1/videos/edits", data={"prompt": prompt}, files={"video": file}).json()
    while not job["error"] and job["status"] != "completed":
        print(job["status"], f"{job['progress']} %", file=sys.stderr)
        time.sleep(1)
        job = client.get(f"/v1/videos/{job['id']}").json()
    if job["error"]:  # of the request, or of the edit
        sys.exit(job["error"]["message"])
    Path(output).write_bytes(client.get(f"/v1/videos/{job['id']}/content").raise_for_status().content)
    client.delete(f"/v1/videos/{job['id']}")


parser = argparse.ArgumentParser(description=__doc__)
for name in ("url", "video", "prompt", "output"):
    parser.add_argument(name)
options = parser.parse_args()
# Any words that nobody guesses: edits are shown to those alone who know them.
token = os.environ.get("LIVEDITOR_TOKEN", "")
headers = {"Authorization": f"Bearer {token}"} if token else {}
try:
    with httpx.Client(base_url=options.url, headers=headers, timeout=300) as client:
        edit(client, options.video, options.prompt, options.output)
except (OSError, httpx.TransportError) as error:
    sys.exit(f"{options.url}, {options.video}: {error}")
print(options.output)
