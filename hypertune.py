"""The command line from a checkout: python hypertune.py --space gru_window."""

from hypertune.cli.app import main

if __name__ == "__main__":
    main()
