"""`python -m transunet`, also under torchrun."""

from transunet.cli.main import main

if __name__ == "__main__":
    main()
