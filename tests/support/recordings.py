"""Small videos of every kind, made by ffmpeg."""

import subprocess

import imageio_ffmpeg
import torch
from comfy_api.latest import InputImpl
from sweep_videos import EXACT

SIZE = WIDTH, HEIGHT = 64, 48


def ffmpeg(*arguments, stdin: bytes | None = None) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-hide_banner", "-loglevel", "error", *map(str, arguments)]
    return subprocess.run(command, input=stdin, check=True, stdout=subprocess.PIPE).stdout


def shown(path, size=SIZE) -> torch.Tensor:
    """[f, H, W, 3] in 0..1: a video as ffmpeg's own command reads it with exact rounding; its white is 254 of 255."""
    filters = f"scale=flags={EXACT},format=gbrpf32le"
    raw = ffmpeg("-i", path, "-vf", filters, "-fps_mode", "passthrough", "-f", "rawvideo", "pipe:1")
    frames = torch.frombuffer(bytearray(raw), dtype=torch.float32)
    return frames.view(-1, 3, *size[::-1])[:, [2, 0, 1]].movedim(1, -1)


def moving(count: int, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """RGBA: a white bar that moves over a gradient, half transparent; the upper left corner is red."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    frames = torch.stack([x * 255 // width, y * 255 // height, torch.full_like(x, 60), torch.full_like(x, 128)], -1)
    frames = frames.repeat(count, 1, 1, 1)
    for index in range(count):
        left = index * 4 % width
        frames[index, height // 2 :, left : left + 4, :3] = 255
    frames[:, :8, :8, :3] = torch.tensor([255, 0, 0])
    return frames.to(torch.uint8).numpy().tobytes()


def made(path, *options, count: int = 8, size=SIZE, rate=25, sound: str | None = None):
    """A video of `count` frames in the format that `options` say; sound: an ffmpeg source filter."""
    raw = ["-f", "rawvideo", "-pix_fmt", "rgba", "-s", "{}x{}".format(*size), "-r", rate, "-i", "pipe:0"]
    audio = ["-f", "lavfi", "-i", sound] if sound else []
    ffmpeg(*raw, *audio, *options, path, stdin=moving(count, *size))
    return InputImpl.VideoFromFile(str(path))


X264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")
