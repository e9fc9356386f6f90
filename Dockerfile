# The command line with the extras batch and serve, for NVIDIA GPUs or CPUs; evaluate and data want more packages.
#
#     docker build -t liveditor-isa:0.1.0 .
#     docker run --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/data" liveditor-isa:0.1.0 edit holiday.mp4 "Make it night"
#     docker run --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/data" -p 127.0.0.1:8000:8000 liveditor-isa:0.1.0 serve --host 0.0.0.0
#
# With --user, files in the mounted folder are the caller's: read and written as theirs.
# Not the slim image: Triton compiles its launchers with gcc when they are first used.
FROM python:3.11-bookworm

ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
WORKDIR /opt/liveditor-isa
# PyTorch comes in a layer of its own, which a change of this project leaves as it is.
COPY requirements/constraints.txt requirements/
RUN pip install torch torchvision -c requirements/constraints.txt
COPY . .
RUN pip install ".[batch,serve]" -c requirements/constraints.txt

# Whoever runs it may have no entry in /etc/passwd: caches of Triton and PyTorch ask for a home and a name.
RUN useradd --create-home liveditor && mkdir /data && chmod 1777 /data /home/liveditor
ENV HOME=/home/liveditor USER=liveditor
USER liveditor
WORKDIR /data
EXPOSE 8000
ENTRYPOINT ["liveditor"]
CMD ["--help"]
