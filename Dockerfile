# The command line with the extras batch and serve, for NVIDIA GPUs or CPUs; evaluate and data want more packages.
#
#     docker build -t liveditor-isa:0.1.0 .
#     docker run --gpus all -v "$PWD:/data" liveditor-isa:0.1.0 edit holiday.mp4 "Make it night"
#     docker run --gpus all -v "$PWD:/data" -p 127.0.0.1:8000:8000 liveditor-isa:0.1.0 serve --host 0.0.0.0
#
# Not the slim image: Triton compiles its launchers with gcc when they are first used.
FROM python:3.11-bookworm

ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
WORKDIR /opt/liveditor-isa
# PyTorch comes in a layer of its own, which a change of this project leaves as it is.
COPY requirements/constraints.txt requirements/
RUN pip install torch torchvision -c requirements/constraints.txt
COPY . .
RUN pip install ".[batch,serve]" -c requirements/constraints.txt

RUN useradd --create-home liveditor && mkdir /data && chown liveditor /data
USER liveditor
WORKDIR /data
EXPOSE 8000
ENTRYPOINT ["liveditor"]
CMD ["--help"]
