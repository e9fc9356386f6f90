"""python -m liveditor_isa.training: trains LIVEditor-tiny."""

from .tiny.__main__ import main

if __name__ == "__main__":
    main()
