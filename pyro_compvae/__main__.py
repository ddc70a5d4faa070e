"""``python -m pyro_compvae`` is ``compvae``."""

import sys

from pyro_compvae.experiments import main

if __name__ == "__main__":
    sys.exit(main())
