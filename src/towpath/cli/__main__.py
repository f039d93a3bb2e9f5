"""``python -m towpath.cli`` is ``tow``."""

from towpath.cli import main

if __name__ == "__main__":
    main()
