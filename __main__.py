"""Run ``python -m headscope`` as the command ``headscope``."""

from .cli import main

if __name__ == "__main__":
    main()
