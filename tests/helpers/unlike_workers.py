"""run_svi.py with arguments in which RANK stands for the number of the worker, so that workers differ."""

import os
import sys

from helpers.scripts import load_script

if __name__ == "__main__":
    arguments = [argument.replace("RANK", os.environ["RANK"]) for argument in sys.argv[1:]]
    sys.exit(load_script("run_svi").main(arguments))
