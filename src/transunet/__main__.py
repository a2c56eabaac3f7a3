"""`python -m transunet`, also under torchrun."""

from transunet_torch import main

if __name__ == "__main__":
    main()
