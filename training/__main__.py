"""python -m liveditor_isa.training: trains LIVEditor-tiny."""

from ..comfyui.startup import use_cpu_without_gpu

if __name__ == "__main__":
    use_cpu_without_gpu()

    from .tiny.__main__ import main

    main()
