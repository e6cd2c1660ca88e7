"""Run the command line with `python -m kblam_engine`."""

from kblam_engine.cli import main

if __name__ == "__main__":
    main()
